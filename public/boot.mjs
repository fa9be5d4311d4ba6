// Boots Pyodide in a worker and puts the engine's Python into it: from a memory snapshot when this device has made one.
//
// Paths are relative to this module, so the app may live below any folder:
//   vendor/<runtime>/   Pyodide's own files     vendor/tokenizers/, vendor/wheels/
//   engine.zip          py_engine/ with shaders/ in it, as in the wheel                app/worker.py
// Python finds what only JavaScript can give at globalThis.jerboa.

import * as blobs from './blobs.mjs';
import * as body from './body.mjs';
import * as storage from './device_storage.mjs';
import * as replay from './replay.mjs';
import * as sha256 from './sha256.mjs';

export const DEFAULT_RUNTIME = 'py314';
const HERE = new URL('./', import.meta.url).href;
const HOME = '/home/pyodide'; // Pyodide's working folder, on sys.path
const WHEELS = ['jinja2-3.1.6-py3-none-any.whl', 'markupsafe-3.0.4-pure.zip'];

/** files: "FOLDER/NAME" -> File; env: settings from the page; body, sha256: all four read by py_engine/host/io_browser.py; blobs: store_browser.py;
    storage: device_storage_browser.py. */
export const jerboa = globalThis.jerboa = { files: new Map(), env: new Map(), blobs, body, replay, sha256, storage, Tokenizer: null, renewTokenizers: null };

const fetchBytes = async path => {
  const answer = await fetch(HERE + path);
  if (!answer.ok) throw new Error(`${path}: status ${answer.status}. Reload the page; if that does not help, its server lacks the file.`);
  return new Uint8Array(await answer.arrayBuffer());
};

const hex = bytes => Array.from(bytes, b => b.toString(16).padStart(2, '0')).join('');

/** Where snapshots are kept, by exact runtime and exact Python sources; null where there is no CacheStorage. */
export async function snapshotPlace(runtime, version, sources) {
  try {
    const digest = hex(new Uint8Array(await crypto.subtle.digest('SHA-256', await new Blob(sources).arrayBuffer())));
    return { store: await caches.open(`snapshot-${version}`), key: `${HERE}snapshot/${runtime}/${digest}` };
  } catch {
    return null; // not a secure context, or storage is switched off
  }
}

/** Lay an archive's files into Python's working folder. */
export function unpack(py, archive) {
  py.FS.writeFile('/tmp/unpack.zip', archive);
  py.runPython(`
import zipfile
with zipfile.ZipFile("/tmp/unpack.zip") as archive:
    archive.extractall("${HOME}")
`);
  py.FS.unlink('/tmp/unpack.zip');
}

/** Lay what fetchSources() gave where Python imports it. */
export function install(py, [engine, worker]) {
  unpack(py, engine);
  py.FS.mkdirTree(`${HOME}/app`);
  py.FS.writeFile(`${HOME}/app/worker.py`, worker);
}

/** What every Pyodide here is booted with. Messages hold null where a setting is absent: that is None, in both versions. */
export const bootOptions = runtime => ({ indexURL: runtimeUrl(runtime), convertNullToNone: true });
export const runtimeUrl = runtime => `${HERE}vendor/${runtime}/`;
/** [engine.zip, app/worker.py]: all the Python that runs here. */
export const fetchSources = () => Promise.all([fetchBytes('engine.zip'), fetchBytes('app/worker.py')]);
export const fetchWheels = () => Promise.all(WHEELS.map(name => fetchBytes(`vendor/wheels/${name}`)));

/** A copy of the tokenizers as jerboa.Tokenizer, the first one or, after a panic in Rust, one that does not know of it. */
let copies = 0;
async function renewTokenizers() {
  copies += 1;
  await import(`${HERE}vendor/tokenizers/index.js#${copies}`); // a UMD file: it sets globalThis.tokenizers
  jerboa.Tokenizer = globalThis.tokenizers.Tokenizer;
}
jerboa.renewTokenizers = renewTokenizers;

/** Pyodide's module with a memory that a snapshot fits into. Pyodide 314 lays a snapshot into the memory that a module
    begins with (30 MiB) and fails where Python had grown beyond that; 0.27 sees to it itself and leaves this out. */
async function createWithRoom(base, settings, bytes) {
  const { default: create } = await import(`${base}pyodide.asm.mjs`);
  const module = await create(settings);
  while (module.HEAP8.length < bytes && module._malloc(1 << 20)); // the snapshot lies over all of it afterwards
  return module;
}

/** Pyodide with the engine's sources in it: {py, version, snapshot: bool, place}. `tell(words)`: what it is at. */
export async function boot(runtime, tell) {
  tell('Fetching Python');
  const base = runtimeUrl(runtime);
  const sourcesCome = fetchSources();
  const tokenizersCome = renewTokenizers();
  const [{ loadPyodide, version }, sources] = await Promise.all([import(`${base}pyodide.mjs`), sourcesCome]);
  const place = await snapshotPlace(runtime, version, sources);
  const kept = await place?.store.match(place.key);
  let py = null;
  if (kept) {
    tell('Starting Python where an earlier visit left off');
    try {
      const _loadSnapshot = new Uint8Array(await kept.arrayBuffer());
      const createPyodideModule = settings => createWithRoom(base, settings, _loadSnapshot.length);
      py = await loadPyodide({ ...bootOptions(runtime), _loadSnapshot, createPyodideModule });
      py.runPython('import random; random.seed()'); // else every visit repeats the random numbers of the snapshot
    } catch (error) { // snapshots are no public interface of Pyodide: the plain boot is the way out
      py = null;
      console.warn('the memory snapshot did not load, booting without it:', error);
      await place.store.delete(place.key);
    }
  }
  const snapshot = py !== null;
  if (!py) {
    tell('Starting Python'); // its own files come meanwhile
    py = await loadPyodide(bootOptions(runtime));
  }
  tell('Starting the engine');
  install(py, sources);
  await tokenizersCome;
  return { py, version, snapshot, place };
}

/** Jinja2 and MarkupSafe, wanted by the first chat. */
let wheels = null;
export function prepareChat(py) {
  wheels ??= fetchWheels().then(archives => archives.forEach(archive => unpack(py, archive)));
  wheels.catch(() => { wheels = null; }); // offline now, perhaps not at the next try
  return wheels;
}
