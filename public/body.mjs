// Reads a response's body into one array, for py_engine/host/io_browser.py. Python is called every few MiB, not for
// each network chunk: a model has thousands of them.

import { take } from './buffers.mjs';

const FIRST_CAPACITY = 64 << 10; // for a body of unknown length
const CHUNK = 1 << 20; // bytes of a read into memory of our own

/** Returns a function that reads the next chunk and resolves to {done, value}, as a reader's read() does. With a BYOB
    reader (WebKitGTK has none) all chunks share one memory, so a chunk is valid only until the next is read. */
function chunksOf(stream) {
  let reader;
  try {
    reader = stream.getReader({ mode: 'byob' });
  } catch {
    reader = stream.getReader();
    return () => reader.read();
  }
  let memory = new ArrayBuffer(CHUNK);
  return async () => {
    const { done, value } = await reader.read(new Uint8Array(memory));
    if (value) memory = value.buffer;
    return { done, value };
  };
}

export class Body {
  #bytes;
  #limit;
  #filled = 0; // bytes that have come
  #given = 0; // bytes that `more` has reported
  #ended = false;
  #failure = null;
  #wake = () => {}; // makes `more` check again

  /** `limit`: the most bytes to read; null: all. Reading begins at once and goes on while nobody waits. */
  constructor(stream, limit) {
    this.#limit = limit ?? Infinity;
    this.#bytes = take(limit ?? FIRST_CAPACITY);
    this.#fill(chunksOf(stream)).catch(error => { this.#failure = error; }).finally(() => this.#wake());
  }

  /** Whether `more` has reported all bytes. */
  get done() { return this.#ended && this.#given === this.#filled; }

  /** Wait until `least` more bytes have come, or `ms` have passed and some have come, or the body ends. Resolves to the
      number of bytes so far. If the transfer broke off, rejects once all bytes before that are reported. */
  async more(least, ms) {
    const come = () => this.#filled - this.#given;
    let late = false;
    const timer = setTimeout(() => { late = true; this.#wake(); }, ms);
    while (!this.#ended && !this.#failure && come() < (late ? 1 : least)) await new Promise(resolve => { this.#wake = resolve; });
    clearTimeout(timer);
    if (this.#failure && !come()) throw this.#failure;
    this.#given = this.#filled;
    return this.#given;
  }

  async #fill(next) {
    while (this.#filled < this.#limit) {
      const { done, value } = await next();
      if (done) break;
      this.#take(value);
      this.#wake();
    }
    this.#ended = true;
  }

  #take(chunk) {
    const wanted = chunk.subarray(0, this.#limit - this.#filled);
    const end = this.#filled + wanted.length;
    if (end > this.#bytes.length) {
      const grown = new Uint8Array(Math.max(end, 2 * this.#bytes.length));
      grown.set(this.#bytes.subarray(0, this.#filled));
      this.#bytes = grown;
    }
    this.#bytes.set(wanted, this.#filled);
    this.#filled = end;
  }

  /** Returns a view of the received bytes start..end. */
  part(start, end) { return this.#bytes.subarray(start, end); }
}

export const open = (stream, limit) => new Body(stream, limit);
