// A temporary worker: boots Pyodide once more, imports what every boot imports, stores the memory as a snapshot, and posts
// {bytes} or {error}. The worker that started it ends it.
//
// The engine's own worker cannot do this: a Pyodide booted with _makeSnapshot cannot use `js` afterwards. Only modules that do
// not touch `js` may be imported here.

import { bootOptions, fetchSources, fetchWheels, install, runtimeUrl, snapshotPlace, unpack } from './boot.mjs';

try {
  const runtime = self.name;
  const base = runtimeUrl(runtime);
  const [{ loadPyodide, version }, sources, wheels] = await Promise.all([
    import(`${base}pyodide.mjs`), fetchSources(), fetchWheels()]);
  const place = await snapshotPlace(runtime, version, sources);
  const py = await loadPyodide({ ...bootOptions(runtime), _makeSnapshot: true });
  install(py, sources);
  for (const archive of wheels) unpack(py, archive);
  py.runPython('import random, app.worker, jinja2, jinja2.ext, jinja2.sandbox');
  const bytes = py.makeMemorySnapshot();
  for (const old of await place.store.keys()) { // of the same runtime, from older sources
    if (old.url.includes(`/snapshot/${runtime}/`)) await place.store.delete(old);
  }
  await place.store.put(place.key, new Response(bytes));
  self.postMessage({ bytes: bytes.byteLength });
} catch (error) {
  self.postMessage({ error: String(error) });
}
