// Reads a response's body into one array, for py_engine/host/io_browser.py. Python is called once a MiB, not once for each
// network chunk: a model has ten thousand of them.

import { take } from './buffers.mjs';

const FIRST_CAPACITY = 64 << 10; // for a body of unknown length
const CHUNK = 1 << 20; // bytes of a read into memory of our own

/** Returns a function that resolves to {done, value} as a reader's does. Where the browser can (BYOB; WebKitGTK cannot), each
    chunk comes in the same memory, and is gone with the next one. */
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
  filled = 0;
  done = false;
  #next; // see chunksOf
  #limit;
  #bytes;
  #coming = null; // a read that has not been awaited to its end

  /** `limit`: the most bytes to read; null: all. */
  constructor(stream, limit) {
    this.#next = chunksOf(stream);
    this.#limit = limit ?? Infinity;
    this.#bytes = take(limit ?? FIRST_CAPACITY);
  }

  /** Read until `least` bytes have come, or `ms` have passed and some have come, or the body ends. Resolves to `filled`. */
  async more(least, ms) {
    const begun = this.filled;
    let timer;
    const late = new Promise(resolve => { timer = setTimeout(resolve, ms, 'late'); });
    try {
      while (!this.done && this.filled - begun < least) {
        this.#coming ??= this.#next();
        this.#coming.catch(() => null); // the error is handled where the read is awaited
        const first = this.filled > begun ? await Promise.race([this.#coming, late]) : await this.#coming;
        if (first === 'late') break;
        this.#coming = null;
        if (first.done) this.done = true; else this.#take(first.value);
      }
    } finally {
      clearTimeout(timer);
    }
    return this.filled;
  }

  #take(piece) {
    const wanted = piece.subarray(0, this.#limit - this.filled);
    const end = this.filled + wanted.length;
    if (end > this.#bytes.length) {
      const grown = new Uint8Array(Math.max(end, 2 * this.#bytes.length));
      grown.set(this.#bytes.subarray(0, this.filled));
      this.#bytes = grown;
    }
    this.#bytes.set(wanted, this.filled);
    this.filled = end;
    if (end === this.#limit) this.done = true;
  }

  /** Returns a view of the received bytes start..end. */
  part(start, end) { return this.#bytes.subarray(start, end); }
}

export const open = (stream, limit) => new Body(stream, limit);
