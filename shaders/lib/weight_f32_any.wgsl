// weight_f32_any.wgsl: rows of f32 of any length.
//
// The kernel supplies: override K (row length), var weight: array<WeightWord>, var scales: array<u32>.
// With chunk_any it supplies the kernel what weight_f32.wgsl says.
// After: chunk, chunk_any.

fn element(i: u32) -> f32 {
  return bitcast<f32>(weight[i]);
}
