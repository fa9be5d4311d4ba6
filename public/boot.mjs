// Boots Pyodide in a worker and loads the engine's Python: from a memory snapshot if this device has one.
//
// Paths are relative to this module, so the app may be served from any folder:
//   vendor/<runtime>/   Pyodide's own files     vendor/tokenizers/, vendor/wheels/
//   engine.zip          py_engine/ with shaders/ in it, as in the wheel                app/worker.py
// Python gets what only JavaScript can provide from globalThis.jerboa.

import * as blobs from './blobs.mjs';
import * as body from './body.mjs';
import * as buffers from './buffers.mjs';
import * as storage from './device_storage.mjs';
import * as replay from './replay.mjs';
import * as sha256 from './sha256.mjs';

export const DEFAULT_RUNTIME = 'py314';
const HERE = new URL('./', import.meta.url).href;
const HOME = '/home/pyodide'; // Pyodide's working folder, on sys.path
const PDF_WHEEL = 'pypdf-7.1.1-py3-none-any.whl';
const WHEELS = ['jinja2-3.1.6-py3-none-any.whl', 'markupsafe-3.0.4-pure.zip'];

/** files: "FOLDER/NAME" -> File. env: settings from the page. The others are for modules of py_engine/host: body,
    buffers and sha256 for io_browser.py, blobs for store_browser.py, replay for adapter_browser.py and gpu_browser.py,
    storage for device_storage_browser.py, Tokenizer and renewTokenizers for tokenizers_browser.py. */
export const jerboa = globalThis.jerboa = { files: new Map(), env: new Map(), blobs, body, buffers, replay, sha256, storage, Tokenizer: null, renewTokenizers: null };

const fetchBytes = async path => {
  const answer = await fetch(HERE + path);
  if (!answer.ok) throw new Error(`${path}: status ${answer.status}. Reload the page; if that does not help, its server lacks the file.`);
  return new Uint8Array(await answer.arrayBuffer());
};

const hex = bytes => Array.from(bytes, b => b.toString(16).padStart(2, '0')).join('');

/** Returns where snapshots are stored, by exact runtime and exact Python sources; null without CacheStorage. */
export async function snapshotPlace(runtime, version, sources) {
  try {
    const digest = hex(new Uint8Array(await crypto.subtle.digest('SHA-256', await new Blob(sources).arrayBuffer())));
    return { store: await caches.open(`snapshot-${version}`), key: `${HERE}snapshot/${runtime}/${digest}` };
  } catch {
    return null; // not a secure context, or storage is switched off
  }
}

/** Unpack an archive into Python's working folder. */
export function unpack(py, archive) {
  py.FS.writeFile('/tmp/unpack.zip', archive);
  py.runPython(`
import zipfile
with zipfile.ZipFile("/tmp/unpack.zip") as archive:
    archive.extractall("${HOME}")
`);
  py.FS.unlink('/tmp/unpack.zip');
}

/** Put the result of fetchSources() where Python imports it. */
export function install(py, [engine, worker]) {
  unpack(py, engine);
  py.FS.mkdirTree(`${HOME}/app`);
  py.FS.writeFile(`${HOME}/app/worker.py`, worker);
}

/** Settings with which every Pyodide here is booted. In messages null means that a setting is absent, so both versions
    of Pyodide must turn null into None. */
export const bootOptions = runtime => ({ indexURL: runtimeUrl(runtime), convertNullToNone: true });
export const runtimeUrl = runtime => `${HERE}vendor/${runtime}/`;
/** Returns [engine.zip, app/worker.py]: all the Python that runs here. */
export const fetchSources = () => Promise.all([fetchBytes('engine.zip'), fetchBytes('app/worker.py')]);
export const fetchWheels = () => Promise.all(WHEELS.map(name => fetchBytes(`vendor/wheels/${name}`)));

/** Sets jerboa.Tokenizer to the tokenizers module; after a panic in Rust, to a fresh copy of it. */
let copies = 0;
async function renewTokenizers() {
  copies += 1;
  await import(`${HERE}vendor/tokenizers/index.js#${copies}`); // a UMD file: it sets globalThis.tokenizers
  jerboa.Tokenizer = globalThis.tokenizers.Tokenizer;
}
jerboa.renewTokenizers = renewTokenizers;

/** Create Pyodide's module with enough memory for a snapshot. Pyodide 314 copies a snapshot into the module's initial memory
    (30 MiB) and fails if Python had grown beyond that. 0.27 handles this itself and does not call this. */
async function createWithRoom(base, settings, bytes) {
  const { default: create } = await import(`${base}pyodide.asm.mjs`);
  const module = await create(settings);
  while (module.HEAP8.length < bytes && module._malloc(1 << 20)); // the snapshot overwrites all of it afterwards
  return module;
}

/** Returns Pyodide with the engine's sources loaded: {py, version, snapshot: bool, place}. `tell(words)` reports progress. */
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
    tell('Starting Python from a snapshot of an earlier visit');
    try {
      const _loadSnapshot = new Uint8Array(await kept.arrayBuffer());
      const createPyodideModule = settings => createWithRoom(base, settings, _loadSnapshot.length);
      py = await loadPyodide({ ...bootOptions(runtime), _loadSnapshot, createPyodideModule });
      py.runPython('import random; random.seed()'); // otherwise every visit repeats the random numbers of the snapshot
    } catch (error) { // snapshots are not a public interface of Pyodide, so fall back to the plain boot
      py = null;
      console.warn('the memory snapshot did not load, booting without it:', error);
      await place.store.delete(place.key);
    }
  }
  const snapshot = py !== null;
  if (!py) {
    tell('Starting Python'); // its own files are fetched meanwhile
    py = await loadPyodide(bootOptions(runtime));
  }
  tell('Starting the engine');
  install(py, sources);
  await tokenizersCome;
  return { py, version, snapshot, place };
}

/** Fetch pypdf, which the first PDF needs. */
let pdf = null;
export function prepareDocuments(py) {
  pdf ??= fetchBytes(`vendor/wheels/${PDF_WHEEL}`).then(archive => unpack(py, archive));
  pdf.catch(() => { pdf = null; });
  return pdf;
}

/** Fetch Jinja2 and MarkupSafe, which the first chat needs. */
let wheels = null;
export function prepareChat(py) {
  wheels ??= fetchWheels().then(archives => archives.forEach(archive => unpack(py, archive)));
  wheels.catch(() => { wheels = null; }); // offline now; the next try may work
  return wheels;
}
