// weight_bf16.wgsl: rows of bf16, two a word; K % 32 == 0, so a chunk is four vec4<u32>.
//
// The kernel supplies: override K (row length), var weight: array<WeightWord>, var scales: array<u32>.
// It supplies the kernel: weight_raw (32 elements before scaling) and weight_affine (what makes them values: raw * x + y).
// After: chunk.

alias WeightWord = vec4<u32>;
const QUANTISED = false;

fn widen(pair: vec2<u32>) -> vec4<f32> {
  return bitcast<vec4<f32>>(vec4<u32>(pair.x << 16u, pair.x & 0xffff0000u, pair.y << 16u, pair.y & 0xffff0000u));
}

fn weight_raw(row: u32, chunk: u32) -> Chunk {
  let i = (row * (K / 32u) + chunk) * 4u;
  let a = weight[i];
  let b = weight[i + 1u];
  let c = weight[i + 2u];
  let d = weight[i + 3u];
  return Chunk(widen(a.xy), widen(a.zw), widen(b.xy), widen(b.zw), widen(c.xy), widen(c.zw), widen(d.xy), widen(d.zw));
}

// Never called (QUANTISED is false); it mentions the binding, so that the layout keeps it.
fn weight_affine(row: u32, chunk: u32) -> vec2<f32> {
  return vec2<f32>(1.0, bitcast<f32>(scales[0]));
}
