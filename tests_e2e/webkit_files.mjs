// The origin private file system as WebKit has it (Source/WebKit/NetworkProcess/storage/FileSystemStorageHandle.cpp), laid
// over Chromium's in a worker before anything of ours runs: a file is moved by folder and name, in older versions onto
// nothing that is there, and an access handle shuts everybody out, whatever mode is asked for, with an InvalidStateError.

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
