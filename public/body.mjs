// A response's body, read into one array: for py_engine/host/io_browser.py, which hears of it a MiB at a time and not of each
// of the network's pieces, of which a model has ten thousand.

const FIRST_CAPACITY = 64 << 10; // of a body of unknown length

export class Body {
  filled = 0;
  done = false;
  #reader;
  #limit;
  #bytes;
  #coming = null; // a read that nobody has waited for to its end

  /** `limit`: the most bytes that are wanted; null: all there are. The default reader: BYOB ones are missing in WebKitGTK. */
  constructor(stream, limit) {
    this.#reader = stream.getReader();
    this.#limit = limit ?? Infinity;
    this.#bytes = new Uint8Array(limit ?? FIRST_CAPACITY);
  }

  /** Read on until `least` bytes have come, or `ms` have gone by and some have, or the end is there. Resolves to `filled`. */
  async more(least, ms) {
    const begun = this.filled;
    let timer;
    const late = new Promise(resolve => { timer = setTimeout(resolve, ms, 'late'); });
    try {
      while (!this.done && this.filled - begun < least) {
        this.#coming ??= this.#reader.read();
        this.#coming.catch(() => null); // whoever awaits it hears of it
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

  /** Bytes start..end of what has come: a view. */
  part(start, end) { return this.#bytes.subarray(start, end); }
}

export const open = (stream, limit) => new Body(stream, limit);
