// Counts a worker's GPU buffers: globalThis.liveBuffers = {count, bytes} of the buffers that exist. A buffer ends
// when it or its device is destroyed. The counter keeps no buffer alive.

const live = globalThis.liveBuffers = { count: 0, bytes: 0 };
const owners = new WeakMap(); // buffer -> the entry of its device; no entry once it is destroyed
const entries = new WeakMap(); // device -> {count, bytes}

function add(entry, count, bytes) {
  for (const sum of [entry, live]) {
    sum.count += count;
    sum.bytes += bytes;
  }
}

const { createBuffer, destroy: destroyDevice } = GPUDevice.prototype;
const { destroy: destroyBuffer } = GPUBuffer.prototype;

GPUDevice.prototype.createBuffer = function (descriptor) {
  const buffer = createBuffer.call(this, descriptor);
  if (!entries.has(this)) entries.set(this, { count: 0, bytes: 0, gone: false });
  owners.set(buffer, entries.get(this));
  add(entries.get(this), 1, buffer.size);
  return buffer;
};

GPUBuffer.prototype.destroy = function () {
  const entry = owners.get(this);
  if (owners.delete(this) && !entry.gone) add(entry, -1, -this.size);
  return destroyBuffer.call(this);
};

GPUDevice.prototype.destroy = function () {
  const entry = entries.get(this);
  if (entry && !entry.gone) add(entry, -entry.count, -entry.bytes);
  if (entry) entry.gone = true;
  return destroyDevice.call(this);
};
