// Reads a response's body into one array, for py_engine/host/io_browser.py. Python is called once a MiB, not once for each
// network chunk: a model has ten thousand of them.

const FIRST_CAPACITY = 64 << 10; // for a body of unknown length

export class Body {
  filled = 0;
  done = false;
  #reader;
  #limit;
  #bytes;
  #coming = null; // a read that has not been awaited to its end

  /** `limit`: the most bytes to read; null: all. Uses the default reader, because WebKitGTK has no BYOB readers. */
  constructor(stream, limit) {
    this.#reader = stream.getReader();
    this.#limit = limit ?? Infinity;
    this.#bytes = new Uint8Array(limit ?? FIRST_CAPACITY);
  }

  /** Read until `least` bytes have come, or `ms` have passed and some have come, or the body ends. Resolves to `filled`. */
  async more(least, ms) {
    const begun = this.filled;
    let timer;
    const late = new Promise(resolve => { timer = setTimeout(resolve, ms, 'late'); });
    try {
      while (!this.done && this.filled - begun < least) {
        this.#coming ??= this.#reader.read();
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
