// scales.wgsl: the (scale, bias) pairs of MLX's affine quantisation, one a group of GROUP elements along a row.
//
// The kernel supplies: override K (row length), var scales: array<u32> [rows, K / GROUP] pairs.

override GROUP: u32 = 64u;         // 32, 64 or 128
override SCALE_FORMAT: u32 = 0u;   // 0: f16 pair in a word. 1: bf16 pair in a word. 2: two f32 words

// Of the group that holds chunk `chunk` of row `row`.
fn scale_pair(row: u32, chunk: u32) -> vec2<f32> {
  let i = row * (K / GROUP) + chunk / (GROUP / 32u);
  if (SCALE_FORMAT == 2u) {
    return vec2<f32>(bitcast<f32>(scales[2u * i]), bitcast<f32>(scales[2u * i + 1u]));
  }
  let word = scales[i];
  if (SCALE_FORMAT == 1u) {
    return vec2<f32>(bitcast<f32>(word << 16u), bitcast<f32>(word & 0xffff0000u));
  }
  return unpack2x16float(word);
}
