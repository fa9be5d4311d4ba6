// weight_bf16.wgsl: rows of bf16, two a word; K % 32 == 0, so a chunk is four vec4<u32>.
//
// The kernel supplies: override K (row length), var weight: array<WeightWord>, var scales: array<u32>.
// It supplies the kernel: Packed (a chunk as it lies in memory), weight_load, weight_unpack (its 32 elements before scaling)
// and weight_affine (what makes them values: raw * x + y).
// And the same for eight elements: PackedOctet, octet_load, octet_unpack, octet_affine.
// After: chunk.

alias WeightWord = vec4<u32>;
const QUANTISED = false;

fn widen(pair: vec2<u32>) -> vec4<f32> {
  return bitcast<vec4<f32>>(vec4<u32>(pair.x << 16u, pair.x & 0xffff0000u, pair.y << 16u, pair.y & 0xffff0000u));
}

struct Packed { a: vec4<u32>, b: vec4<u32>, c: vec4<u32>, d: vec4<u32> }

fn weight_load(row: u32, chunk: u32) -> Packed {
  let i = (row * (K / 32u) + chunk) * 4u;
  return Packed(weight[i], weight[i + 1u], weight[i + 2u], weight[i + 3u]);
}

fn weight_unpack(p: Packed) -> Chunk {
  return Chunk(widen(p.a.xy), widen(p.a.zw), widen(p.b.xy), widen(p.b.zw),
               widen(p.c.xy), widen(p.c.zw), widen(p.d.xy), widen(p.d.zw));
}

alias PackedOctet = vec4<u32>;

fn octet_load(row: u32, octet: u32) -> PackedOctet {
  return weight[row * (K / 8u) + octet];
}

fn octet_unpack(p: PackedOctet) -> Octet {
  return Octet(widen(p.xy), widen(p.zw));
}

// Both are never called (QUANTISED is false); they mention the binding, so that the layout keeps it.
fn weight_affine(packed: Packed) -> vec2<f32> {
  return vec2<f32>(1.0, bitcast<f32>(scales[0]));
}

fn octet_affine(packed: PackedOctet) -> vec2<f32> {
  return vec2<f32>(1.0, bitcast<f32>(scales[0]));
}
