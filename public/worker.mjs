// The engine's worker: boots Python, then passes messages both ways. py_engine/serve/protocol.py defines the messages.
//
// `new Worker('worker.mjs', {type: 'module', name: runtime})`; runtime: a folder of vendor/, '' for the default one.
// Messages that come while booting are queued. Nothing here knows about models.

import { boot, DEFAULT_RUNTIME, jerboa, prepareChat, prepareDocuments } from './boot.mjs';

const SNAPSHOT_DELAY_MS = 1000; // leave the CPU to the page for a moment after a cold boot
const MAX_ID = 256; // as in protocol.py
const SNAPSHOT_LIMIT_MS = 300_000; // no useful machine takes this long
const started = performance.now();
const runtime = self.name || DEFAULT_RUNTIME;
let receive = null; // app/worker.py's, once it is loaded
let dead = false; // Python has crashed
const waiting = [];
let reading = null; // while Blobs of a message are read, which later messages wait for

const isObject = value => Array.isArray(value) || isPlain(value);
const isPlain = value => value !== null && typeof value === 'object'
  && [Object.prototype, null].includes(Object.getPrototypeOf(value));

/** Returns the id to answer a message under, null if it has none. */
function idOf(data) {
  const id = isPlain(data) ? data.id : null;
  if (typeof id === 'string') return id.slice(0, MAX_ID);
  return typeof id === 'bigint' || Number.isFinite(id) ? id : null;
}

const refuse = (data, error, error_type = 'InputError') =>
  self.postMessage({ status: 'error', id: idOf(data), error_type, error });

/** Returns what is wrong with a message that JavaScript handles; '' for a valid one. */
function wrong({ type, id, name, files, paths, values, ...others }) {
  if (id != null && (typeof id === 'string' ? id.length > MAX_ID : !Number.isInteger(id))) return `${type}.id must be a string or a whole number`;
  if (Object.keys(others).length) return `${type} has no field ${JSON.stringify(Object.keys(others)[0].slice(0, 80))}`;
  if (type === 'env') {
    if (name != null || files != null || paths != null) return 'env has the field values and no other';
    if (!isPlain(values) || !Object.values(values).every(value => typeof value === 'string')) return 'env.values must be an object of strings';
    return '';
  }
  if (values != null) return 'files has the fields name, files and paths and no other';
  if (typeof name !== 'string' || !name) return 'files.name must be a string';
  if (!Array.isArray(files) || !files.every(file => file instanceof File)) return 'files.files must be a list of File objects';
  if (paths == null) return '';
  const good = Array.isArray(paths) && paths.length === files.length && paths.every(path => typeof path === 'string' && path);
  if (!good) return 'files.paths must be a list of strings, one for each of files.files';
  return '';
}

/** Handles messages that need only JavaScript. Returns true if it was one. */
function handledHere(data) {
  if (!isPlain(data) || data.type !== 'files' && data.type !== 'env') return false;
  const error = wrong(data);
  if (error) {
    refuse(data, error);
    return true;
  }
  const { type, name, files, paths, values } = data;
  const answer = value => self.postMessage({ status: 'result', ...(data.id == null ? {} : { id: data.id }), value });
  if (type === 'files') {
    for (const key of [...jerboa.files.keys()]) if (key.startsWith(`${name}/`)) jerboa.files.delete(key);
    files.forEach((file, i) => jerboa.files.set(`${name}/${paths?.[i] ?? file.name}`, file));
    answer(files.length);
  } else {
    for (const [key, value] of Object.entries(values)) jerboa.env.set(key, value);
    answer(null);
  }
  return true;
}

/** Whether a message holds a Blob: a picture, say. */
const holdsBlob = (value, depth = 8) => value instanceof Blob || depth > 0 && isObject(value)
  && Object.values(value).some(item => holdsBlob(item, depth - 1));

/** Returns a copy of a message with its Blobs read, as Python cannot read them. */
async function withBytes(value) {
  if (value instanceof Blob) return new Uint8Array(await value.arrayBuffer());
  if (Array.isArray(value)) return Promise.all(value.map(withBytes));
  if (!isPlain(value)) return value;
  const entries = Object.entries(value).map(async ([key, item]) => [key, await withBytes(item)]);
  return Object.fromEntries(await Promise.all(entries));
}

/** Hand a message to Python, now or when it is there. */
function take(data) {
  if (dead) refuse(data, 'Python has ended in this worker: start another one', 'EngineError');
  else if (receive) receive(data);
  else waiting.push(data);
}

self.onmessage = ({ data }) => {
  if (!dead && handledHere(data)) return;
  if (!reading && !holdsBlob(data)) return take(data);
  const before = reading;
  const turn = withBytes(data).then(
    async whole => { await before; take(whole); },
    async error => { await before; refuse(data, `a Blob in the message cannot be read: ${error}`); },
  ).then(() => { if (reading === turn) reading = null; });
  reading = turn;
};

self.onmessageerror = () => refuse(null, 'a message could not be read: it is nested too deep, or holds what cannot be sent');

/** Python cannot go on: report it once. The page then starts another worker. */
function died(error) {
  if (dead) return;
  dead = true;
  self.postMessage({ status: 'died', message: String(error?.message ?? error).slice(0, 500) });
}

/** Watch for crashes of Python: Pyodide reports most; for the others, a call shows whether Python still runs. */
function watch(py) {
  if (py._api) py._api.on_fatal = died; // not a public interface: without it, only the call is left
  const ask = event => {
    if (isPythonAlive(py)) return;
    died(event.reason ?? event.error ?? event.message);
    event.preventDefault(); // it is reported
  };
  self.addEventListener('unhandledrejection', ask);
  self.addEventListener('error', ask);
}

function isPythonAlive(py) {
  try {
    return py.runPython('1') === 1;
  } catch {
    return false;
  }
}

/** Store a snapshot for the next visit, while the engine runs. The result is reported once, also a failure. */
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
  const { py, version, snapshot, place } = await boot(runtime, message => self.postMessage({ status: 'booting', message }));
  const host = py.pyimport('app.worker').Host(
    message => self.postMessage(message.toJs({ dict_converter: Object.fromEntries })),
    () => prepareChat(py),
    () => prepareDocuments(py),
  );
  watch(py);
  receive = message => {
    let object;
    try {
      object = py.toPy(message);
    } catch (error) { // too deeply nested for JavaScript
      if (isPythonAlive(py)) refuse(message, `a message is an object of plain values: ${error}`);
      else died(error);
      return;
    }
    try {
      host.receive(object);
      object?.destroy?.();
    } catch (error) {
      if (!isPythonAlive(py)) died(error);
      refuse(message, String(error), 'EngineError');
    }
  };
  const boot_ms = Math.round(performance.now() - started);
  self.postMessage({ status: 'booted', runtime: `Pyodide ${version}`, boot_ms, snapshot });
  host.begin(); // sends a report if an earlier run crashed, provided that the page gave this run a name
  for (const message of waiting.splice(0)) receive(message);
  if (!snapshot && place) setTimeout(makeSnapshot, SNAPSHOT_DELAY_MS);
} catch (error) {
  self.postMessage({ status: 'error', id: null, error_type: 'EngineError', error: `the engine did not start: ${error}` });
}
