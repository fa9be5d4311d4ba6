// The JavaScript part of the GPU host: loops that would cost Python a crossing for each call.
//
// py_engine/host/gpu_browser.py passes a recorded plan once; from then on a forward pass, and the whole token loop, run here.
// Names are WebGPU's own (https://www.w3.org/TR/webgpu/). No eval, and no knowledge of the engine.

const RESULT_BYTES = 16; // RESULT_WORDS of py_engine/host/gpu.py: token, halt, position, count
const CROSSING_MS = 16;  // after the first batch of results, Python gets at most one in this time

const sleep = ms => new Promise(done => setTimeout(done, ms));

/** Returns `size` bytes: those of `part`, repeated. */
function repeated(part, size) {
  const whole = new Uint8Array(size);
  whole.set(part.subarray(0, size));
  for (let done = part.length; done < size; done *= 2) whole.copyWithin(done, 0, Math.min(done, size - done));
  return whole;
}

/** A device, its counters, and the errors that it reports later. */
export class Device {
  /** `oneInFlight`: copies and reads are submitted when all earlier work is done, and awaited (WebKit). Plans have their own
      setting. */
  constructor(device, oneInFlight) {
    this.device = device;
    this.oneInFlight = oneInFlight;
    this.queue = device.queue;
    this.lost = null;        // once the device is lost: "reason: message"
    this.uncaptured = null;  // the first error outside any scope
    this.scopes = new Set(); // promises of [what, kind, message] or null: errors that firstError() has not reported
    this.loops = new WeakMap(); // result buffer -> promise that its newest decode loop has ended and freed the ring
    this.line = Promise.resolve(); // resolves when the last work that needs the device alone is done
    this.clear();
    device.addEventListener('uncapturederror', event => {
      event.preventDefault?.();
      this.uncaptured ??= event.error.message;
    });
    device.lost.then(info => { this.lost = `${info.reason}: ${info.message}`; });
  }

  clear() { this.dispatches = this.submits = this.reads = this.inFlight = 0; }

  /** Returns [dispatches, submits, 16-byte reads, most steps in flight] since the last call. */
  takeCounts() {
    const counts = [this.dispatches, this.submits, this.reads, this.inFlight];
    this.clear();
    return counts;
  }

  /** Run `make` inside error scopes; firstError() returns their errors, under the name `what`. */
  scoped(what, make) {
    this.device.pushErrorScope('out-of-memory');
    this.device.pushErrorScope('validation');
    try {
      return make();
    } finally {
      const none = () => null; // a lost device: `lost` has the reason
      const errors = [this.device.popErrorScope().catch(none), this.device.popErrorScope().catch(none)];
      const found = Promise.all(errors).then(([validation, memory]) => {
        if (memory) return [what, 'out-of-memory', memory.message];
        if (validation) return [what, 'validation', validation.message];
        this.scopes.delete(found);
        return null;
      });
      this.scopes.add(found);
    }
  }

  /** Returns the first error since the last call, as [what, kind, message], or null. A call covers only what was made before
      it, even if another call is still pending. */
  async firstError() {
    const [scopes, outside] = [[...this.scopes], this.uncaptured];
    this.scopes.clear();
    this.uncaptured = null;
    const found = (await Promise.all(scopes)).find(error => error);
    const late = outside ?? this.uncaptured;
    if (!found && late) this.uncaptured = null;
    return found ?? (late ? ['a command', 'validation', late] : null);
  }

  /** Run `work` after all earlier work of this line, and return its result. Several models share the device, and WebKit allows
      only one command buffer in flight. */
  alone(work) {
    const done = this.line.then(work);
    this.line = done.catch(() => {});
    return done;
  }

  createBuffer(label, size, usage) {
    return this.scoped(`buffer '${label}' of ${size} bytes`, () => this.device.createBuffer({ label, size, usage }));
  }

  write(label, buffer, offset, data) {
    this.scoped(`upload of ${data.byteLength} bytes to '${label}'`, () => this.queue.writeBuffer(buffer, offset, data));
  }

  /** Upload parts of `data`. `ranges`: for each buffer the start and end in `data`, the offset in buffers[i] and the bytes to
      write there. Data that is shorter is repeated. */
  writeParts(data, buffers, ranges) {
    this.scoped(`uploads to ${buffers.length} places`, () => buffers.forEach((buffer, i) => {
      const [start, end, offset, size] = ranges.slice(4 * i, 4 * i + 4);
      if (size === end - start) this.queue.writeBuffer(buffer, offset, data, start, size);
      else this.queue.writeBuffer(buffer, offset, repeated(data.subarray(start, end), size));
    }));
  }

  /** Copy between buffers. `ranges`: for each copy the offset in sources[i], the offset in targets[i] and the size. */
  async copy(sources, targets, ranges) {
    const submit = () => {
      this.scoped(`${sources.length} copies`, () => {
        const encoder = this.device.createCommandEncoder();
        sources.forEach((source, i) => {
          const [from, to, size] = ranges.slice(3 * i, 3 * i + 3);
          encoder.copyBufferToBuffer(source, from, targets[i], to, size);
        });
        this.queue.submit([encoder.finish()]);
      });
      this.submits += 1;
    };
    if (!this.oneInFlight) return submit();
    await this.alone(async () => {
      await this.idle();
      submit();
      await this.idle();
    });
  }

  /** Copy a part of an ImageBitmap to a buffer, 4 bytes a pixel, as its values are. `part`: left, top, width and height in
      pixels; `place`: offset in the buffer, and bytes from line to line (a multiple of 256). */
  async copyBitmap(bitmap, part, buffer, place) {
    const [x, y, width, height] = part;
    const size = [width, height];
    const submit = () => this.scoped(`a picture of ${width} x ${height} pixels`, () => {
      const usage = GPUTextureUsage.COPY_SRC | GPUTextureUsage.COPY_DST | GPUTextureUsage.RENDER_ATTACHMENT;
      const texture = this.device.createTexture({ label: 'picture', size, format: 'rgba8unorm', usage });
      this.queue.copyExternalImageToTexture(
        { source: bitmap, origin: [x, y] }, { texture, premultipliedAlpha: false }, size);
      const encoder = this.device.createCommandEncoder();
      encoder.copyTextureToBuffer({ texture }, { buffer, offset: place[0], bytesPerRow: place[1] }, size);
      this.queue.submit([encoder.finish()]);
      texture.destroy();
      this.submits += 1;
    });
    if (!this.oneInFlight) return submit();
    await this.alone(async () => {
      await this.idle();
      submit();
      await this.idle();
    });
  }

  /** Returns a copy of a range of a buffer, by a temporary mapped buffer. */
  async read(buffer, offset, size) {
    const target = this.device.createBuffer({ label: 'read', size, usage: GPUBufferUsage.MAP_READ | GPUBufferUsage.COPY_DST });
    const submit = () => {
      const encoder = this.device.createCommandEncoder();
      encoder.copyBufferToBuffer(buffer, offset, target, 0, size);
      this.queue.submit([encoder.finish()]);
      return target.mapAsync(GPUMapMode.READ);
    };
    try {
      await (this.oneInFlight ? this.alone(() => this.idle().then(submit)) : submit());
      return new Uint8Array(target.getMappedRange().slice(0));
    } finally {
      target.destroy();
    }
  }

  /** `ranges`: for each buffer the offset and size. */
  bindGroup(label, pipeline, buffers, ranges) {
    const entries = buffers.map((buffer, i) => (
      { binding: i, resource: { buffer, offset: ranges[2 * i], size: ranges[2 * i + 1] } }));
    return this.scoped(`the buffers of '${label}'`, () => (
      this.device.createBindGroup({ label, layout: pipeline.getBindGroupLayout(0), entries })));
  }

  /** Returns the compile errors of `code` as text, '' when it compiles. */
  async trial(code) {
    this.device.pushErrorScope('validation');
    const module = this.device.createShaderModule({ label: 'trial', code });
    const [error, info] = await Promise.all([this.device.popErrorScope(), module.getCompilationInfo()]);
    const told = info.messages.filter(m => m.type === 'error').map(m => `line ${m.lineNum}: ${m.message}`).join('\n');
    return told || (error ? error.message : '');
  }

  /** Returns a compute pipeline of entry point main. Rejects with the compiler's message. */
  async pipeline(label, code, constants) {
    this.device.pushErrorScope('validation'); // a shader's error belongs to this pipeline, not to 'uncapturederror'
    const module = this.device.createShaderModule({ label, code });
    this.device.popErrorScope().catch(() => null);
    try {
      return await this.device.createComputePipelineAsync({
        label, layout: 'auto', compute: { module, entryPoint: 'main', constants } });
    } catch (error) {
      const info = await module.getCompilationInfo();
      const told = info.messages.filter(m => m.type === 'error').map(m => `line ${m.lineNum}: ${m.message}`);
      throw new Error([...told, error.message].join('\n'), { cause: error });
    }
  }

  /** Call after a failure: resolves soon, once it is known whether the device was lost. */
  async settle() { await Promise.race([this.device.lost, sleep(200)]); }

  async idle() { await this.queue.onSubmittedWorkDone(); }
}

/** A plan: dispatch i has pipelines[i], groups[i], counts[3i..3i+2]. `cuts`: how many dispatches are in each pass of each
    command buffer. `awaitEach`: submit a command buffer only when the one before it is done (WebKit). */
export class Recording {
  constructor(gpu, pipelines, groups, counts, cuts, awaitEach) {
    Object.assign(this, { gpu, pipelines, groups, counts, awaitEach });
    let at = 0; // cuts -> for each command buffer its passes as [first, end]
    this.buffers = cuts.map(passes => passes.map(n => [at, at += n]));
  }

  /** Encode dispatches `first` to `end` into a pass. */
  #encode(pass, first, end) {
    const { gpu, pipelines, groups, counts } = this;
    let bound = null;
    for (let i = first; i < end; i++) {
      if (pipelines[i] !== bound) pass.setPipeline(bound = pipelines[i]);
      pass.setBindGroup(0, groups[i]);
      pass.dispatchWorkgroups(counts[3 * i], counts[3 * i + 1], counts[3 * i + 2]);
    }
    gpu.dispatches += end - first;
  }

  /** Submit command buffer `index`; `copy`, if given: [source, target] of the result, copied at its end. */
  #submit(index, copy) {
    const { gpu } = this;
    const encoder = gpu.device.createCommandEncoder();
    for (const [first, end] of this.buffers[index]) {
      const pass = encoder.beginComputePass();
      this.#encode(pass, first, end);
      pass.end();
    }
    if (copy) encoder.copyBufferToBuffer(copy[0], 0, copy[1], 0, RESULT_BYTES);
    gpu.queue.submit([encoder.finish()]);
    gpu.submits += 1;
  }

  /** Returns the begin and end of each pass, as 64-bit nanoseconds. A pass runs its dispatches `repeats` times. */
  async timePasses(repeats) {
    const { device, queue } = this.gpu;
    const count = 2 * this.buffers.flat().length;
    const querySet = device.createQuerySet({ label: 'timestamps', type: 'timestamp', count });
    const ticks = device.createBuffer({
      label: 'timestamps', size: 8 * count, usage: GPUBufferUsage.QUERY_RESOLVE | GPUBufferUsage.COPY_SRC });
    try {
      let at = 0;
      for (const passes of this.buffers) {
        const encoder = device.createCommandEncoder();
        for (const [first, end] of passes) {
          const timestampWrites = { querySet, beginningOfPassWriteIndex: at++, endOfPassWriteIndex: at++ };
          const pass = encoder.beginComputePass({ timestampWrites });
          for (let i = 0; i < repeats; i++) this.#encode(pass, first, end);
          pass.end();
        }
        queue.submit([encoder.finish()]);
        if (this.awaitEach) await this.gpu.idle();
      }
      const encoder = device.createCommandEncoder();
      encoder.resolveQuerySet(querySet, 0, count, ticks, 0);
      queue.submit([encoder.finish()]);
      if (this.awaitEach) await this.gpu.idle();
      return await this.gpu.read(ticks, 0, 8 * count);
    } finally {
      ticks.destroy();
      querySet.destroy();
    }
  }

  /** Submit the whole plan once; `copy` as in #submit. Returns a promise when there are several command buffers or they are
      awaited, else nothing. */
  replay(copy) {
    const last = this.buffers.length - 1;
    if (this.awaitEach) return this.#awaited(last, copy);
    if (last > 0) return this.#handedOver(last, copy);
    this.#submit(0, copy);
  }

  /** Chromium hands what was submitted over to the GPU's process when a microtask ends. The GPU then works on the first command
      buffers while the next ones are encoded. */
  async #handedOver(last, copy) {
    for (let i = 0; i <= last; i++) {
      this.#submit(i, i === last ? copy : null);
      if (i < last) await Promise.resolve();
    }
  }

  async #awaited(last, copy) {
    for (let i = 0; i <= last; i++) {
      await this.gpu.alone(() => {
        this.#submit(i, i === last ? copy : null);
        return this.gpu.idle();
      });
    }
  }
}

/** The token loop: submits ahead up to the size of the ring of MAP_READ buffers, reads results in order. `begun`: the first
    step was submitted already, so only its result is read. */
export class DecodeLoop {
  #results = [];        // words not returned by next() yet
  #handed = -Infinity;  // time of the last batch
  #failure = null;
  #ended = false;
  #dropped = 0;         // results read after the halt
  #left;
  #begun;
  #wake = () => {};     // resolves what next() waits for

  constructor(recording, result, ring, maxSteps, begun) {
    this.#left = maxSteps;
    this.#begun = begun;
    const gpu = this.gpu = recording.gpu;
    const before = gpu.loops.get(result) ?? Promise.resolve(); // it uses the same ring
    this.finished = before
      .then(() => this.#run(gpu, recording, result, ring))
      .catch(error => { this.#failure = error; })
      .then(() => { this.#ended = true; this.#wake(); });
    gpu.loops.set(result, this.finished);
  }

  /** Submit no more steps; results of steps in flight still come. */
  stop() { this.#left = 0; }

  /** Returns the next results, four words each, none when the loop has ended. Rejects when a submit or read failed. */
  async next() {
    if (!this.#results.length && !this.#ended) await this.#arrival();
    const wait = this.#handed + CROSSING_MS - performance.now();
    // Timers truncate to whole milliseconds.
    if (wait > 0 && !this.#ended) await Promise.race([sleep(Math.ceil(wait)), this.finished]);
    if (!this.#results.length && this.#failure) throw this.#failure;
    this.#handed = performance.now();
    const words = this.#results.splice(0);
    this.gpu.reads += words.length * 4 / RESULT_BYTES; // dropped results are counted at the end, below
    if (!words.length) [this.gpu.reads, this.#dropped] = [this.gpu.reads + this.#dropped, 0];
    return new Uint32Array(words);
  }

  #arrival() { return new Promise(wake => { this.#wake = wake; }); }

  /** Run to the end or to a failure. After a failure no buffer of the ring stays mapped, and the device's error is
      taken, so that the next loop does not fail because of this one. */
  async #run(gpu, recording, result, ring) {
    const pending = []; // [slot, promise of its mapping], oldest first
    try {
      await this.#steps(gpu, recording, result, [...ring], pending);
    } catch (error) {
      await Promise.allSettled(pending.map(([slot, mapped]) => mapped.then(() => slot.unmap())));
      const told = gpu.uncaptured;
      gpu.uncaptured = null;
      throw told ? new Error(told) : error;
    }
  }

  async #steps(gpu, recording, result, free, pending) {
    let halted = false;
    while (true) {
      while (free.length && this.#left > 0) {
        this.#left -= 1;
        const slot = free.pop();
        const done = this.#begun ? gpu.copy([result], [slot], [0, 0, RESULT_BYTES]) : recording.replay([result, slot]);
        this.#begun = false;
        if (done) await done;
        const mapped = slot.mapAsync(GPUMapMode.READ);
        mapped.catch(() => {}); // awaited below; a failure before that must not count as unhandled
        pending.push([slot, mapped]);
        gpu.inFlight = Math.max(gpu.inFlight, pending.length);
      }
      if (!pending.length) return;
      const [slot, mapped] = pending.shift();
      await mapped;
      const words = new Uint32Array(slot.getMappedRange().slice(0));
      slot.unmap();
      free.push(slot);
      if (gpu.uncaptured) throw new Error(gpu.uncaptured); // the words would be stale
      if (halted) this.#dropped += 1; else this.#results.push(...words);
      if (words[1]) { halted = true; this.#left = 0; } // steps submitted after a halt change nothing
      this.#wake();
    }
  }
}
