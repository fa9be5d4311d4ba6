// Reuses memory for the slices of weights, which a load reads one after the other. Fresh memory would cost more time
// than copying the bytes into it, because the system clears it page by page.

const SIZE = 16 << 20; // bytes of a slice at most (SLICE_BYTES in py_engine/weights/loader.py)

let spare = []; // WeakRefs, so that a buffer which nobody takes can be freed

/** Returns a Uint8Array of this many bytes, with undefined content. */
export function take(nbytes) {
  if (nbytes <= SIZE / 2 || nbytes > SIZE) return new Uint8Array(nbytes);
  const [buffer, ...others] = spare.map(ref => ref.deref()).filter(Boolean);
  spare = others.map(each => new WeakRef(each));
  return new Uint8Array(buffer ?? new ArrayBuffer(SIZE), 0, nbytes);
}

/** Let `take` reuse the memory of an array that it returned and that nobody reads any more. Ignores other arrays. */
export function giveBack({ buffer }) {
  if (buffer.byteLength === SIZE) spare.push(new WeakRef(buffer));
}
