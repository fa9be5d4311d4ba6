// scales.wgsl: the (scale, bias) pairs of MLX's affine quantisation, one a group of GROUP elements along a row.
//
// The kernel supplies: override K (row length), var scales: array<u32> [rows, K / GROUP] pairs.

override GROUP: u32 = 64u;         // 32, 64 or 128
override SCALE_FORMAT: u32 = 0u;   // 0: f16 pair in a word. 1: bf16 pair in a word. 2: two f32 words

// Of the group that holds chunk `chunk` of row `row`, as they lie in memory; one word unless f32.
fn scale_words(row: u32, chunk: u32) -> vec2<u32> {
  let i = row * (K / GROUP) + chunk / (GROUP / 32u);
  if (SCALE_FORMAT == 2u) { return vec2<u32>(scales[2u * i], scales[2u * i + 1u]); }
  return vec2<u32>(scales[i], 0u);
}

fn scale_pair(words: vec2<u32>) -> vec2<f32> {
  if (SCALE_FORMAT == 2u) { return bitcast<vec2<f32>>(words); }
  if (SCALE_FORMAT == 1u) { return bitcast<vec2<f32>>(vec2<u32>(words.x << 16u, words.x & 0xffff0000u)); }
  return unpack2x16float(words.x);
}
