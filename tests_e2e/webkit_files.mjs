// Makes Chromium's origin private file system behave as WebKit's
// (Source/WebKit/NetworkProcess/storage/FileSystemStorageHandle.cpp). A worker imports it before any of our code.
//  - move() requires a folder and a name. Older versions refuse a name that is taken.
//  - While an access handle is open, a second one is an InvalidStateError, whatever mode is asked for.

const { move, createSyncAccessHandle } = FileSystemFileHandle.prototype;

FileSystemFileHandle.prototype.move = async function (folder, name) {
  if (arguments.length < 2) throw new TypeError('Not enough arguments');
  const there = await folder.getFileHandle(name).then(() => true, () => false);
  if (there && globalThis.olderWebKit) throw new DOMException('The operation failed for an unknown transient reason', 'UnknownError');
  return await move.call(this, folder, name);
};

FileSystemFileHandle.prototype.createSyncAccessHandle = async function () {
  try {
    return await createSyncAccessHandle.call(this);
  } catch (error) {
    if (error.name !== 'NoModificationAllowedError') throw error;
    throw new DOMException('The object is in an invalid state.', 'InvalidStateError');
  }
};
