// Memory for the slices of weights that pass through a load, one after the other. What was read is in use again a moment later:
// fresh memory costs more time than the bytes that are copied there, since the system clears it page by page.

const SIZE = 16 << 20; // bytes of a slice at most (SLICE_BYTES in py_engine/weights/loader.py)

let spare = []; // WeakRefs: what nobody takes soon is freed

/** Returns a Uint8Array for so many bytes, with any content. */
export function take(nbytes) {
  if (nbytes <= SIZE / 2 || nbytes > SIZE) return new Uint8Array(nbytes);
  const [buffer, ...others] = spare.map(ref => ref.deref()).filter(Boolean);
  spare = others.map(each => new WeakRef(each));
  return new Uint8Array(buffer ?? new ArrayBuffer(SIZE), 0, nbytes);
}

/** Nobody reads an array of `take` any more. Other arrays are left alone. */
export function giveBack({ buffer }) {
  if (buffer.byteLength === SIZE) spare.push(new WeakRef(buffer));
}
