// A store that fails on purpose. A worker imports it before any of our code, and it replaces methods of the origin
// private file system and of CacheStorage. globalThis.storeFaults counts the calls that change the store. Call number
// `at` (from 1) fails as `how` says:
//   kill   the page gets the message 'killed' and the worker hangs for ever; the test must end them
//   half   the same, after half of the bytes were written to a file, or an entry of a cache was begun
//   full   that call and all later ones have no room, except those that delete
//   once   only that call has no room
// It also counts the bytes that handles of the private file system read.

const faults = globalThis.storeFaults = { at: Infinity, how: '', changes: 0, read: 0 };

/** Count and fail the calls of a method. `half(method, ...arguments)` does a part of it; `frees`: it needs no room. */
function watch({ prototype }, name, { half, frees = false } = {}) {
  const method = prototype[name];
  prototype[name] = function (...given) {
    faults.changes += 1;
    if (faults.how === 'full' || faults.how === 'once') {
      const none = faults.how === 'full' ? faults.changes >= faults.at : faults.changes === faults.at;
      if (none && !frees) throw new DOMException('no room, for a test', 'QuotaExceededError');
    } else if (faults.changes === faults.at) {
      if (faults.how === 'half') half?.(method.bind(this), ...given);
      self.postMessage({ status: 'killed', id: null, message: `change ${faults.at}: ${name}` });
      for (;;);
    }
    return method.apply(this, given);
  };
}

const { read } = FileSystemSyncAccessHandle.prototype;
FileSystemSyncAccessHandle.prototype.read = function (...given) {
  const count = read.apply(this, given);
  faults.read += count;
  return count;
};

watch(FileSystemSyncAccessHandle, 'write', { half: (write, data, at) => write(data.subarray(0, data.length >> 1), at) });
watch(FileSystemSyncAccessHandle, 'truncate');
watch(FileSystemSyncAccessHandle, 'flush');
watch(FileSystemFileHandle, 'move');
watch(FileSystemDirectoryHandle, 'removeEntry', { frees: true });
watch(Cache, 'put', { half: (put, ...given) => { put(...given); } });
watch(Cache, 'delete', { frees: true });
