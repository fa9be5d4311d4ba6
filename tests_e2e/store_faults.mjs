// A store that fails on purpose: laid over the origin private file system and CacheStorage in a worker before anything of
// ours runs. globalThis.storeFaults counts the calls that change what is kept, and at the call number `at` (from 1):
//   kill   the page hears 'killed' and the worker never does anything again: it is for the test to end them
//   half   the same, once a file got half of the bytes or a cache's entry was begun
//   full   that call and all that follow find no room; deleting needs none
//   once   that call alone does

// Bytes that handles of the private file system read are counted, too.

const faults = globalThis.storeFaults = { at: Infinity, how: '', changes: 0, read: 0 };

/** Count the calls of a method; `half(method, ...arguments)` does a part of its work, `frees`: it needs no room. */
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
