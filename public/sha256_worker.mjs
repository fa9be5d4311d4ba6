// The worker of start() in sha256.mjs. A message {buffer, length} adds the first `length` bytes of a buffer, and the answer gives
// the buffer back; null asks for the digest.

import { compile, DATA, START } from './sha256_wasm.mjs';

const PART = 64 << 10; // bytes added at once: their copy is still in the processor's cache

export class Sha256 {
  #bytes; // the module's memory: the state, and from DATA on what is added
  #blocks;
  #held = 0; // bytes of an incomplete block
  #length = 0;

  constructor() {
    const { memory, blocks } = new WebAssembly.Instance(compile(PART / 65536 + 1)).exports;
    this.#bytes = new Uint8Array(memory.buffer);
    this.#blocks = blocks;
    new Int32Array(memory.buffer).set(START);
  }

  update(bytes) {
    for (let at = 0; at < bytes.length; at += PART) this.#add(bytes.subarray(at, at + PART));
  }

  #add(bytes) {
    this.#bytes.set(bytes, DATA + this.#held);
    this.#length += bytes.length;
    const end = this.#held + bytes.length;
    this.#held = end % 64;
    const rest = DATA + end - this.#held;
    this.#blocks(DATA, rest);
    this.#bytes.copyWithin(DATA, rest, DATA + end);
  }

  /** Returns the hex digest of all bytes; nothing may be added afterwards. */
  digest() {
    const end = DATA + (this.#held < 56 ? 64 : 128);
    this.#bytes.fill(0, DATA + this.#held, end);
    this.#bytes[DATA + this.#held] = 0x80;
    const view = new DataView(this.#bytes.buffer);
    view.setBigUint64(end - 8, BigInt(this.#length) * 8n);
    this.#blocks(DATA, end);
    return Array.from({ length: 8 }, (_, i) => view.getUint32(4 * i, true).toString(16).padStart(8, '0')).join('');
  }
}

const sum = new Sha256();

self.onmessage = ({ data }) => {
  if (data === null) return self.postMessage(sum.digest());
  sum.update(new Uint8Array(data.buffer, 0, data.length));
  self.postMessage(data.buffer, [data.buffer]);
};
