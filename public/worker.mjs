// The engine's worker: boots Python, then passes messages both ways. py_engine/serve/protocol.py is the wire format.
//
// `new Worker('worker.mjs', {type: 'module', name: runtime})`; runtime: a folder of vendor/, '' for the default one.
// Messages that come while booting wait. Nothing here knows about models.

import { boot, DEFAULT_RUNTIME, jerboa, prepareChat } from './boot.mjs';

const SNAPSHOT_DELAY_MS = 1000; // leave the machine to the page for a moment after a cold boot
const SNAPSHOT_LIMIT_MS = 300_000; // no machine that is of use takes so long
const started = performance.now();
const runtime = self.name || DEFAULT_RUNTIME;
let receive = null; // app/worker.py's, once it is there
const waiting = [];

/** Messages about things that only JavaScript holds. True when it was one. */
function handledHere({ type, id, name, files, values }) {
  if (type === 'files') {
    for (const key of [...jerboa.files.keys()]) if (key.startsWith(`${name}/`)) jerboa.files.delete(key);
    for (const file of files) jerboa.files.set(`${name}/${file.name}`, file);
    self.postMessage({ status: 'result', id, value: files.length });
  } else if (type === 'env') {
    for (const [key, value] of Object.entries(values)) jerboa.env.set(key, String(value));
    self.postMessage({ status: 'result', id, value: null });
  } else {
    return false;
  }
  return true;
}

self.onmessage = ({ data }) => {
  if (handledHere(data)) return;
  if (receive) receive(data); else waiting.push(data);
};

/** Store a snapshot for the next visit, beside the running engine. What became of it is said once, whatever that is. */
function makeSnapshot() {
  const worker = new Worker(new URL('./snapshot.mjs', import.meta.url), { type: 'module', name: runtime });
  const limit = setTimeout(() => end(`it took longer than ${SNAPSHOT_LIMIT_MS / 1000} s`), SNAPSHOT_LIMIT_MS);
  function end(failure, bytes) {
    clearTimeout(limit);
    worker.terminate();
    const message = failure ? `no memory snapshot was made: ${failure}` : `memory snapshot stored, ${bytes} bytes`;
    self.postMessage({ status: 'log', message });
  }
  worker.onmessage = ({ data }) => end(data.error, data.bytes);
  worker.onerror = event => {
    event.preventDefault();
    end(event.message || 'its files did not load');
  };
}

try {
  const { py, version, snapshot, place } = await boot(runtime);
  const host = py.pyimport('app.worker').Host(
    message => self.postMessage(message.toJs({ dict_converter: Object.fromEntries })),
    () => prepareChat(py),
  );
  receive = message => {
    const object = py.toPy(message);
    host.receive(object);
    object.destroy?.();
  };
  const boot_ms = Math.round(performance.now() - started);
  self.postMessage({ status: 'booted', runtime: `Pyodide ${version}`, boot_ms, snapshot });
  host.begin(); // what an earlier run died at comes by itself, to a page that named this one
  for (const message of waiting.splice(0)) receive(message);
  if (!snapshot && place) setTimeout(makeSnapshot, SNAPSHOT_DELAY_MS);
} catch (error) {
  self.postMessage({ status: 'error', id: null, error_type: 'EngineError', error: `the engine did not start: ${error}` });
}
