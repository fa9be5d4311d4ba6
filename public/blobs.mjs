// Files that the engine stores on this device, for py_engine/host/store_browser.py. Bytes go in and out as Uint8Arrays.
//
// openStore(root, records) returns the first of these that works here; all have the same methods:
//   Opfs     the origin private file system below jerboa/ROOT, by synchronous handles (workers only)
//   Pieces   CacheStorage: a file is cut at multiples of PIECE, one entry each. For WebKit, which has no synchronous
//            handles in some ports, and no private file system in private windows
//   Records  IndexedDB with strict durability, used instead of Pieces for `records`: small files that are needed after
//            a page has crashed
//   Memory   lost when the worker ends
// Every method may reject with an Error that has a DOMException's name; QuotaExceededError means that the store is full. The
// caller awaits one call before the next.

import { take } from './buffers.mjs';

const FOLDER = 'jerboa'; // folder in the origin's private file system, and prefix of our CacheStorage names
const PIECE = 4 << 20; // bytes of a CacheStorage entry; WebKit has failed above 64 MB
const RECORD_PIECE = 64 << 10; // bytes of an IndexedDB entry: records are a few hundred bytes
const HANDLES = 4; // open at a time

const absent = name => new DOMException(`${name} is not in the store`, 'NotFoundError');
const full = name => new DOMException(`no room for ${name}`, 'QuotaExceededError');
const isAbsent = error => error.name === 'NotFoundError' || error.name === 'TypeMismatchError';
const busy = error => error.name === 'NoModificationAllowedError';

/** Open a synchronous handle. WebKit has no modes, and throws InvalidStateError when another tab has the file open. */
async function accessed(file, options) {
  try {
    return await file.createSyncAccessHandle(options);
  } catch (error) {
    throw error.name === 'InvalidStateError' ? new DOMException(error.message, 'NoModificationAllowedError') : error;
  }
}

class Opfs {
  kind = 'opfs';
  persistent = true;
  #top;
  #open = new Map(); // name -> {handle, writable}, the last used one at the end

  constructor(top) { this.#top = top; }

  static async open(root) {
    let top = await navigator.storage.getDirectory();
    for (const part of [FOLDER, root]) top = await top.getDirectoryHandle(part, { create: true });
    await Opfs.#probe(top).catch(error => { if (error.name !== 'QuotaExceededError') throw error; });
    return new Opfs(top);
  }

  /** Browsers lack different parts of this API, and only a write shows whether it works. A full store counts as working. */
  static async #probe(top) {
    const name = `probe-${crypto.randomUUID()}`;
    const file = await top.getFileHandle(name, { create: true });
    try {
      const handle = await accessed(file);
      try {
        handle.write(new Uint8Array(1), { at: 0 });
      } finally {
        handle.close();
      }
    } finally {
      await top.removeEntry(name).catch(() => {});
    }
  }

  async #folder(parts, create) {
    let folder = this.#top;
    for (const part of parts) folder = await folder.getDirectoryHandle(part, { create });
    return folder;
  }

  /** Returns [folder, name in it]. */
  async #place(name, create) {
    const parts = name.split('/');
    const last = parts.pop();
    return [await this.#folder(parts, create), last];
  }

  async #file(name, create) {
    const [folder, last] = await this.#place(name, create);
    return folder.getFileHandle(last, { create });
  }

  /** Returns an open handle; rejects with NoModificationAllowedError if another tab has the file open for writing. */
  async #handle(name, writable) {
    const kept = this.#open.get(name);
    if (kept && (kept.writable || !writable)) {
      this.#open.delete(name);
      this.#open.set(name, kept);
      return kept.handle;
    }
    this.#closeOne(name);
    const file = await this.#file(name, writable);
    const handle = await accessed(file, writable ? {} : { mode: 'read-only' });
    this.#open.set(name, { handle, writable });
    if (this.#open.size > HANDLES) this.#closeOne(this.#open.keys().next().value);
    return handle;
  }

  /** Close a handle. `wanted`: flush what was written to the disk; else the file is about to be deleted. */
  #closeOne(name, wanted = true) {
    const { handle, writable } = this.#open.get(name) ?? {};
    this.#open.delete(name);
    try {
      if (writable && wanted) handle.flush(); // a later flush has no handle
    } finally {
      handle?.close();
    }
  }

  async list(folder) {
    const names = [];
    const walk = async (place, prefix) => {
      for await (const [name, entry] of place.entries()) {
        if (entry.kind === 'directory') await walk(entry, `${prefix}${name}/`);
        else names.push(prefix + name);
      }
    };
    try {
      const parts = folder ? folder.split('/') : [];
      await walk(await this.#folder(parts, false), folder ? `${folder}/` : '');
    } catch (error) {
      if (!isAbsent(error)) throw error;
    }
    return names.sort();
  }

  async size(name) {
    try {
      if (this.#open.has(name)) return this.#open.get(name).handle.getSize();
      return (await (await this.#file(name, false)).getFile()).size;
    } catch (error) {
      if (isAbsent(error)) return null;
      throw error;
    }
  }

  async read(name, start, end) {
    let handle;
    try {
      handle = await this.#handle(name, false);
    } catch (error) {
      if (!busy(error)) throw error;
      const file = await (await this.#file(name, false)).getFile(); // open for writing elsewhere: read a snapshot of it
      return new Uint8Array(await file.slice(start, end ?? file.size).arrayBuffer());
    }
    const size = handle.getSize();
    const data = take(Math.max(0, Math.min(end ?? size, size) - start));
    return data.subarray(0, handle.read(data, { at: start }));
  }

  /** Chromium reserves a MiB or more for each open file: if the store is full, try again with all files closed. */
  async #roomy(work) {
    try {
      await work();
    } catch (error) {
      if (error.name !== 'QuotaExceededError') throw error;
      await this.close();
      await work();
    }
  }

  write(name, offset, data) { return this.#roomy(() => this.#put(name, offset, data)); }
  replace(name, data) { return this.#roomy(() => this.#replace(name, data)); }

  async #put(name, offset, data) {
    const handle = await this.#handle(name, true);
    if (handle.write(data, { at: offset }) < data.byteLength) throw full(name);
  }

  async flush(name) {
    this.#open.get(name)?.handle.flush();
  }

  /** Write the data beside the file and move it over the old one. If that fails, nothing is left beside it. */
  async #replace(name, data) {
    const beside = `${name}.new`;
    try {
      await this.#writeWhole(beside, data);
      this.#closeOne(name);
      if (await this.#moved(beside, name)) return;
      await this.#writeWhole(name, data); // not atomic: a reader has to check that the data is complete
      await this.remove(beside);
    } catch (error) {
      await this.remove(beside).catch(() => {});
      throw error;
    }
  }

  /** Returns whether the move worked: some browsers cannot move files, and some versions of WebKit only onto an
      existing one. */
  async #moved(from, name) {
    const file = await this.#file(from, false);
    if (!file.move) return false;
    return await file.move(...await this.#place(name, false)).then(() => true, error => {
      if (error.name === 'QuotaExceededError') throw error;
      return false;
    });
  }

  async #writeWhole(name, data) {
    const handle = await this.#handle(name, true);
    try {
      handle.truncate(0);
      if (handle.write(data, { at: 0 }) < data.byteLength) throw full(name);
    } finally {
      this.#closeOne(name);
    }
  }

  async remove(name) {
    for (const open of [...this.#open.keys()]) if (open === name || open.startsWith(`${name}/`)) this.#closeOne(open, false);
    const parts = name.split('/');
    try {
      while (parts.length) {
        const last = parts.pop();
        const folder = await this.#folder(parts, false);
        await folder.removeEntry(last, { recursive: parts.length + 1 === name.split('/').length });
        if (!(await folder.keys().next()).done) break; // also remove folders that are empty now
      }
    } catch (error) {
      if (!isAbsent(error)) throw error;
    }
  }

  /** Close all handles, even if one cannot be flushed because the store is full. */
  async close() {
    const failed = [];
    for (const name of [...this.#open.keys()]) {
      try {
        this.#closeOne(name);
      } catch (error) {
        failed.push(error);
      }
    }
    if (failed.length) throw failed[0];
  }
}

/** Files cut into pieces of one size. A subclass stores the pieces. The piece that is being written is held until `flush`. */
class Cut {
  #size;
  #piece = null; // {name, index, data: #size bytes, end: bytes in use, changed}

  constructor(size) { this.#size = size; }

  async list(folder) {
    const names = new Set(await this.names());
    if (this.#piece) names.add(this.#piece.name);
    return [...names].filter(name => !folder || name.startsWith(`${folder}/`)).sort();
  }

  async size(name) {
    const held = this.#piece?.name === name ? this.#piece : null;
    const last = Math.max(-1, ...await this.indices(name));
    if (!held) return last < 0 ? null : last * this.#size + (await this.get(name, last)).length;
    const end = held.index * this.#size + held.end;
    return last <= held.index ? end : last * this.#size + (await this.get(name, last)).length;
  }

  async read(name, start, end) {
    const size = await this.size(name);
    if (size === null) throw absent(name);
    const data = new Uint8Array(Math.max(0, Math.min(end ?? size, size) - start));
    for (let done = 0; done < data.length;) {
      const index = Math.floor((start + done) / this.#size);
      const from = start + done - index * this.#size;
      const count = Math.min(this.#size - from, data.length - done);
      const held = this.#piece?.name === name && this.#piece.index === index;
      const piece = held ? this.#piece.data : await this.get(name, index);
      if (piece) data.set(piece.subarray(from, from + count), done); // never written: zeros
      done += count;
    }
    return data;
  }

  async write(name, offset, data) {
    for (let done = 0; done < data.length;) {
      const index = Math.floor((offset + done) / this.#size);
      const from = offset + done - index * this.#size;
      const count = Math.min(this.#size - from, data.length - done);
      const piece = await this.#hold(name, index);
      piece.data.set(data.subarray(done, done + count), from);
      piece.end = Math.max(piece.end, from + count);
      piece.changed = true;
      done += count;
    }
  }

  async #hold(name, index) {
    if (this.#piece?.name !== name || this.#piece.index !== index) {
      await this.#settle();
      const old = await this.get(name, index);
      const data = new Uint8Array(this.#size);
      if (old) data.set(old);
      this.#piece = { name, index, data, end: old?.length ?? 0, changed: false };
    }
    return this.#piece;
  }

  async #settle() {
    const piece = this.#piece;
    if (!piece?.changed) return;
    await this.put(piece.name, piece.index, piece.data.slice(0, piece.end)); // the piece is still held if the store is full
    piece.changed = false;
  }

  async flush(name) {
    if (this.#piece?.name === name) await this.#settle();
  }

  async replace(name, data) {
    if (data.length > this.#size) throw new DOMException(`${name} is too large to be replaced at once`, 'NotSupportedError');
    if (this.#piece?.name === name) this.#piece = null;
    await this.put(name, 0, data.slice()); // one entry, so a reader sees the old or the new data
  }

  async remove(name) {
    const below = each => each === name || each.startsWith(`${name}/`);
    if (this.#piece && below(this.#piece.name)) this.#piece = null;
    for (const each of await this.names()) if (below(each)) await this.drop(each);
  }

  async close() {
    try {
      await this.#settle();
    } finally {
      this.#piece = null; // if the store was full, it still has the old piece
    }
  }
}

class Pieces extends Cut {
  kind = 'cache-storage';
  persistent = true;
  #cache;

  constructor(cache) { super(PIECE); this.#cache = cache; }

  static async open(root) {
    const cache = await caches.open(`${FOLDER}-${root}`);
    await cache.keys();
    return new Pieces(cache);
  }

  /** Addresses that are never fetched from the network. */
  #url(name, index) {
    const search = index === undefined ? '' : `?piece=${index}`;
    return new URL(`./blobs/${name.split('/').map(encodeURIComponent).join('/')}${search}`, import.meta.url).href;
  }

  async names() {
    const start = this.#url('').length;
    return [...new Set((await this.#cache.keys()).map(({ url }) => decodeURIComponent(url.split('?')[0].slice(start))))];
  }

  async indices(name) {
    const keys = await this.#cache.keys(this.#url(name), { ignoreSearch: true });
    return keys.map(({ url }) => Number(new URL(url).searchParams.get('piece')));
  }

  async get(name, index) {
    const answer = await this.#cache.match(this.#url(name, index));
    return answer ? new Uint8Array(await answer.arrayBuffer()) : null;
  }

  async put(name, index, data) {
    await this.#cache.put(this.#url(name, index), new Response(data));
  }

  async drop(name) {
    await this.#cache.delete(this.#url(name), { ignoreSearch: true });
  }
}

/** Turns an IndexedDB request into a promise. */
const settled = request => new Promise((done, failed) => {
  request.onsuccess = () => done(request.result);
  request.onerror = () => failed(request.error);
});

class Records extends Cut {
  kind = 'indexed-db';
  persistent = true;
  #database;

  constructor(database) { super(RECORD_PIECE); this.#database = database; }

  static async open(root) {
    const asked = indexedDB.open(`${FOLDER}-${root}`, 1);
    asked.onupgradeneeded = () => asked.result.createObjectStore('pieces'); // [name, index] -> Uint8Array
    const records = new Records(await settled(asked));
    await records.names(); // some browsers open a database that they refuse to use
    return records;
  }

  #read(method, ...given) { return settled(this.#database.transaction('pieces').objectStore('pieces')[method](...given)); }

  /** Resolves when the data is on the disk. */
  #change(method, ...given) {
    return new Promise((done, failed) => {
      const transaction = this.#database.transaction('pieces', 'readwrite', { durability: 'strict' });
      transaction.oncomplete = () => done();
      transaction.onabort = () => failed(transaction.error ?? new DOMException('it was ended', 'UnknownError'));
      transaction.objectStore('pieces')[method](...given);
    });
  }

  #of(name) { return IDBKeyRange.bound([name], [name, []]); } // arrays sort after all numbers

  async names() { return [...new Set((await this.#read('getAllKeys')).map(([name]) => name))]; }
  async indices(name) { return (await this.#read('getAllKeys', this.#of(name))).map(([, index]) => index); }
  async get(name, index) { return await this.#read('get', [name, index]) ?? null; }
  async put(name, index, data) { await this.#change('put', data, [name, index]); }
  async drop(name) { await this.#change('delete', this.#of(name)); }
}

class Memory extends Cut {
  kind = 'memory';
  persistent = false;
  #files = new Map(); // name -> Map of index -> bytes

  constructor() { super(PIECE); }

  names() { return [...this.#files.keys()]; }
  indices(name) { return [...this.#files.get(name)?.keys() ?? []]; }
  get(name, index) { return this.#files.get(name)?.get(index) ?? null; }
  put(name, index, data) {
    if (!this.#files.has(name)) this.#files.set(name, new Map());
    this.#files.get(name).set(index, data);
  }

  drop(name) { this.#files.delete(name); }
}

const METHODS = ['list', 'size', 'read', 'write', 'flush', 'replace', 'remove', 'close'];

/** An error that Pyodide 314 can raise: it does not notice a rejection with Chromium's class QuotaExceededError. */
const plain = error => Object.assign(new Error(error.message), { name: error.name });

function guarded(store) {
  const call = method => async (...given) => {
    try {
      return await store[method](...given);
    } catch (error) {
      throw plain(error);
    }
  };
  const { kind, persistent } = store;
  return { kind, persistent, ...Object.fromEntries(METHODS.map(method => [method, call(method)])) };
}

/** Returns the store of this root: the first of `kinds` that works here. The default depends on `records`. */
export async function openStore(root, records = false, kinds = [Opfs, records ? Records : Pieces]) {
  for (const kind of kinds) {
    try {
      return guarded(await kind.open(root));
    } catch (error) {
      console.info(`no ${kind.name} store here: ${error}`);
    }
  }
  return guarded(new Memory());
}

export const KINDS = { Opfs, Pieces, Records };

/** Ask for the Web Lock `name`. Resolves to a function that releases it and resolves when that is done; to null when `wait` is
    false and another has the lock. An abort of `signal` ends the wait, and releases a lock that was granted meanwhile. Where
    there are no locks, every request is granted. */
export function lock(name, shared, wait, signal) {
  if (!navigator.locks) return Promise.resolve(async () => {});
  const options = { mode: shared ? 'shared' : 'exclusive', ...(wait ? { signal } : { ifAvailable: true }) };
  return new Promise((got, failed) => {
    const done = navigator.locks.request(`${FOLDER}:${name}`, options, held => held && new Promise(release => {
      signal.addEventListener('abort', release);
      got(() => { release(); return done; });
    }));
    done.then(() => got(null), error => failed(plain(error)));
  });
}
