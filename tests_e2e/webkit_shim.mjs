// A WebKit that fails on purpose. A worker in Chromium imports it before any of our code. Then navigator.gpu behaves as
// WebKit's was seen to on phones and tablets. The query of its address sets the limits:
//   stale=N     in one command buffer, dispatches after the Nth change of pipelines read their inputs as they were
//               before that command buffer
//   passes=N    a command buffer with more passes ends the page
//   queue=N     more than N unfinished command buffers end the page
//   bytes=N     buffers of more than N bytes in all end the page
//   lose=N      buffers of more than N bytes in all lose the device
//   opfs=0      no private file system, as in a private window
// To end the page, the shim sends it the message 'killed' and the worker hangs for ever, which is all a script can do.

const LIMITS = Object.fromEntries([...new URL(import.meta.url).searchParams].map(([k, v]) => [k, Number(v)]));
const limit = name => LIMITS[name] ?? Infinity;

function die(why) {
  self.postMessage({ status: 'killed', id: null, message: why });
  for (;;);
}

if (limit('opfs') === 0) delete StorageManager.prototype.getDirectory;

// ---- buffers

const held = new Map(); // buffer -> its device
let total = 0;

function drop(buffer) {
  if (held.delete(buffer)) total -= buffer.size;
}

function lose(device) {
  for (const [buffer, its] of held) if (its === device) drop(buffer);
  device.destroy();
}

const { createBuffer, createShaderModule, createComputePipelineAsync, createBindGroup, createCommandEncoder } = GPUDevice.prototype;
GPUDevice.prototype.createBuffer = function (descriptor) {
  // Stale reads need copies, so every buffer must allow them. (A real WebKit does not copy.)
  const buffer = createBuffer.call(this, { ...descriptor, usage: descriptor.usage | mappable(descriptor.usage) });
  held.set(buffer, this);
  total += buffer.size;
  if (total > limit('bytes')) die(`${total} bytes of buffers`);
  if (total > limit('lose')) lose(this);
  return buffer;
};
const { destroy } = GPUBuffer.prototype;
GPUBuffer.prototype.destroy = function () {
  drop(this);
  return destroy.call(this);
};
const mappable = usage => usage & GPUBufferUsage.MAP_READ ? 0 : GPUBufferUsage.COPY_SRC | GPUBufferUsage.COPY_DST;

// ---- the bindings that a pipeline writes, and the resources of a bind group

const writes = new WeakMap(); // module, then pipeline -> numbers of its read_write bindings
const groups = new WeakMap(); // bind group -> its descriptor
GPUDevice.prototype.createShaderModule = function (descriptor) {
  const module = createShaderModule.call(this, descriptor);
  const found = descriptor.code.matchAll(/@binding\((\d+)\)\s*var<storage,\s*read_write>/g);
  writes.set(module, new Set([...found].map(([, n]) => Number(n))));
  return module;
};
GPUDevice.prototype.createComputePipelineAsync = async function (descriptor) {
  const pipeline = await createComputePipelineAsync.call(this, descriptor);
  writes.set(pipeline, writes.get(descriptor.compute.module));
  return pipeline;
};
GPUDevice.prototype.createBindGroup = function (descriptor) {
  const group = createBindGroup.call(this, descriptor);
  groups.set(group, descriptor);
  return group;
};

// ---- command buffers: calls are recorded, and finish() encodes them

class Encoder {
  #device;
  #calls = []; // {pass: [{pipeline, group, counts}]} or {copy: arguments}

  constructor(device) { this.#device = device; }

  beginComputePass() {
    const dispatches = [];
    this.#calls.push({ pass: dispatches });
    const state = {};
    return {
      setPipeline: pipeline => { state.pipeline = pipeline; },
      setBindGroup: (index, group) => { state.group = group; },
      dispatchWorkgroups: (...counts) => dispatches.push({ ...state, counts }),
      end: () => {},
    };
  }

  copyBufferToBuffer(...given) { this.#calls.push({ copy: given }); }

  finish() {
    const encoder = createCommandEncoder.call(this.#device, {});
    const passes = this.#calls.filter(call => call.pass);
    if (passes.length > limit('passes')) die(`${passes.length} passes in a command buffer`);
    const shadows = this.#shadows(encoder, passes.flatMap(call => call.pass));
    for (const { pass, copy } of this.#calls) {
      if (copy) { encoder.copyBufferToBuffer(...copy); continue; }
      const real = encoder.beginComputePass();
      for (const { pipeline, group, counts, late } of pass) {
        real.setPipeline(pipeline);
        real.setBindGroup(0, late ? this.#stale(pipeline, group, shadows) : group);
        real.dispatchWorkgroups(...counts);
      }
      real.end();
    }
    return encoder.finish();
  }

  /** Mark the late dispatches, and copy the buffers that they read after an earlier dispatch wrote them. */
  #shadows(encoder, dispatches) {
    const shadows = new Map(); // buffer -> its copy
    const written = new Set();
    let changes = 0;
    let last = null;
    for (const dispatch of dispatches) {
      if (dispatch.pipeline !== last) changes += 1;
      last = dispatch.pipeline;
      const own = writes.get(dispatch.pipeline);
      for (const { binding, resource: { buffer } } of groups.get(dispatch.group).entries) {
        if (own.has(binding)) { written.add(buffer); continue; }
        if (changes <= limit('stale') || !written.has(buffer)) continue;
        dispatch.late = true;
        if (!shadows.has(buffer)) {
          const copy = createBuffer.call(this.#device, { size: buffer.size, usage: buffer.usage });
          encoder.copyBufferToBuffer(buffer, 0, copy, 0, buffer.size);
          shadows.set(buffer, copy);
        }
      }
    }
    return shadows;
  }

  #stale(pipeline, group, shadows) {
    const own = writes.get(pipeline);
    const { layout, entries } = groups.get(group);
    return createBindGroup.call(this.#device, { layout, entries: entries.map(({ binding, resource }) => {
      const copy = own.has(binding) ? null : shadows.get(resource.buffer);
      return { binding, resource: copy ? { ...resource, buffer: copy } : resource };
    }) });
  }
}

GPUDevice.prototype.createCommandEncoder = function () { return new Encoder(this); };

// ---- the queue

let unfinished = 0;
const { submit } = GPUQueue.prototype;
GPUQueue.prototype.submit = function (buffers) {
  unfinished += buffers.length;
  if (unfinished > limit('queue')) die(`${unfinished} unfinished command buffers`);
  submit.call(this, buffers);
  const done = () => { unfinished -= buffers.length; };
  this.onSubmittedWorkDone().then(done, done);
};
