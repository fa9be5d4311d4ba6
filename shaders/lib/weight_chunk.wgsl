// weight_chunk.wgsl: 32 elements of a weight row as values. After: chunk, a weight library.

fn weight_chunk(row: u32, chunk: u32) -> Chunk {
  let packed = weight_load(row, chunk);
  let raw = weight_unpack(packed);
  if (QUANTISED) {
    let affine = weight_affine(packed);
    return chunk_affine(raw, affine.x, affine.y);
  }
  return raw;
}
