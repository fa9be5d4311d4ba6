// A sha256 (FIPS 180-4) of bytes that come in pieces: crypto.subtle digests only whole buffers.
//
// start() runs one in its own worker (sha256_worker.mjs), parallel to the engine's: pieces are copied there, one at a time.

const K = new Int32Array(64);
const START = new Int32Array(8);

// The first 32 fractional bits of the cube roots of the first 64 primes, and of the square roots of the first 8. Computed in
// integers, because doubles are not exact enough for all of them.
{
  const root = (n, power) => {
    let low = 0n, high = 1n << 40n;
    const wanted = BigInt(n) << BigInt(32 * power);
    while (high - low > 1n) {
      const middle = (low + high) >> 1n;
      if (middle ** BigInt(power) <= wanted) low = middle; else high = middle;
    }
    return Number(BigInt.asIntN(32, low));
  };
  for (let n = 2, found = 0; found < 64; n++) {
    let prime = true;
    for (let d = 2; d * d <= n; d++) if (n % d === 0) prime = false;
    if (!prime) continue;
    K[found] = root(n, 3);
    if (found < 8) START[found] = root(n, 2);
    found++;
  }
}

export class Sha256 {
  #state = START.slice();
  #words = new Int32Array(64);
  #rest = new Uint8Array(64); // bytes of an incomplete block
  #held = 0;
  #length = 0;

  update(bytes) {
    this.#length += bytes.length;
    let at = 0;
    if (this.#held) {
      at = Math.min(64 - this.#held, bytes.length);
      this.#rest.set(bytes.subarray(0, at), this.#held);
      this.#held += at;
      if (this.#held < 64) return;
      this.#blocks(this.#rest, 0, 64);
      this.#held = 0;
    }
    const end = at + (bytes.length - at) - (bytes.length - at) % 64;
    this.#blocks(bytes, at, end);
    this.#rest.set(bytes.subarray(end));
    this.#held = bytes.length - end;
  }

  /** Returns the hex digest of all bytes; nothing may be added afterwards. */
  digest() {
    const tail = new Uint8Array(this.#held < 56 ? 64 : 128);
    tail.set(this.#rest.subarray(0, this.#held));
    tail[this.#held] = 0x80;
    new DataView(tail.buffer).setBigUint64(tail.length - 8, BigInt(this.#length) * 8n);
    this.#blocks(tail, 0, tail.length);
    return [...this.#state].map(word => (word >>> 0).toString(16).padStart(8, '0')).join('');
  }

  #blocks(bytes, start, end) {
    const w = this.#words, state = this.#state;
    for (let at = start; at < end; at += 64) {
      for (let i = 0, j = at; i < 16; i++, j += 4) {
        w[i] = bytes[j] << 24 | bytes[j + 1] << 16 | bytes[j + 2] << 8 | bytes[j + 3];
      }
      for (let i = 16; i < 64; i++) {
        const x = w[i - 15], y = w[i - 2];
        const s0 = (x >>> 7 | x << 25) ^ (x >>> 18 | x << 14) ^ x >>> 3;
        const s1 = (y >>> 17 | y << 15) ^ (y >>> 19 | y << 13) ^ y >>> 10;
        w[i] = w[i - 16] + s0 + w[i - 7] + s1 | 0;
      }
      let a = state[0], b = state[1], c = state[2], d = state[3], e = state[4], f = state[5], g = state[6], h = state[7];
      for (let i = 0; i < 64; i++) {
        const s1 = (e >>> 6 | e << 26) ^ (e >>> 11 | e << 21) ^ (e >>> 25 | e << 7);
        const t1 = h + s1 + (e & f ^ ~e & g) + K[i] + w[i] | 0;
        const s0 = (a >>> 2 | a << 30) ^ (a >>> 13 | a << 19) ^ (a >>> 22 | a << 10);
        const t2 = s0 + (a & b ^ a & c ^ b & c) | 0;
        h = g; g = f; f = e; e = d + t1 | 0;
        d = c; c = b; b = a; a = t1 + t2 | 0;
      }
      state[0] += a; state[1] += b; state[2] += c; state[3] += d;
      state[4] += e; state[5] += f; state[6] += g; state[7] += h;
    }
  }
}

/** Returns {update(bytes), digest(), close()}; the first two resolve when the worker is done with them. */
export function start() {
  const worker = new Worker(new URL('./sha256_worker.mjs', import.meta.url), { type: 'module' });
  const waiting = []; // [resolve, reject] of calls, in order
  worker.onmessage = ({ data }) => waiting.shift()[0](data);
  worker.onerror = event => { for (const [, reject] of waiting.splice(0)) reject(new Error(event.message)); };
  const ask = (message, transfer) => new Promise((...settle) => {
    waiting.push(settle);
    worker.postMessage(message, transfer);
  });
  return {
    update: bytes => { const copy = bytes.slice(); return ask(copy, [copy.buffer]); },
    digest: () => ask(null, []),
    close: () => worker.terminate(),
  };
}
