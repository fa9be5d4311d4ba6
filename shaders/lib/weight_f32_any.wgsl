// weight_f32_any.wgsl: rows of f32 of any length.
//
// The kernel supplies: override K (row length), var weight: array<WeightWord>, var scales: array<u32>.
// It supplies the kernel: weight_raw (32 elements before scaling) and weight_affine (what makes them values: raw * x + y).
// After: chunk, chunk_any.

fn element(i: u32) -> f32 {
  return bitcast<f32>(weight[i]);
}
