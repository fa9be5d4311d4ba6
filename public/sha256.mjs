// A sha256 of bytes that come in pieces: crypto.subtle digests only whole buffers. It runs in a worker of its own
// (sha256_worker.mjs), parallel to the engine's.

const PART = 1 << 20; // size of a buffer that is sent to the worker; it comes back and is filled again
const PARTS = 16; // most buffers

/** Returns {update(bytes), digest(), close()}. `update` resolves when all bytes are copied, perhaps before they are
    hashed. `digest` resolves to the hex digest of all bytes. */
export function start() {
  const worker = new Worker(new URL('./sha256_worker.mjs', import.meta.url), { type: 'module' });
  const spare = []; // buffers that the worker has given back
  let made = 0;
  let waiting = null; // [resolve, reject] of the call that waits for an answer
  let failed = null;
  worker.onmessage = ({ data }) => {
    if (typeof data !== 'string') spare.push(data);
    waiting?.[0](data);
    waiting = null;
  };
  worker.onerror = event => {
    failed = new Error(event.message);
    waiting?.[1](failed);
  };
  const answer = () => new Promise((...settle) => {
    if (failed) throw failed;
    waiting = settle;
  });
  async function room() {
    if (!spare.length && made < PARTS) {
      made += 1;
      return new ArrayBuffer(PART);
    }
    while (!spare.length) await answer();
    return spare.pop();
  }
  return {
    async update(bytes) {
      for (let at = 0; at < bytes.length; at += PART) {
        const part = bytes.subarray(at, at + PART);
        const buffer = await room();
        new Uint8Array(buffer).set(part);
        worker.postMessage({ buffer, length: part.length }, [buffer]);
      }
    },
    async digest() {
      worker.postMessage(null);
      let data;
      do data = await answer(); while (typeof data !== 'string');
      return data;
    },
    close: () => worker.terminate(),
  };
}
