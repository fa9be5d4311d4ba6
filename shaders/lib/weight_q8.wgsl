// weight_q8.wgsl: rows of 8-bit fields, 4 a word, lowest first; K % 32 == 0, so a chunk is two vec4<u32>.
//
// The kernel supplies: override K (row length), var weight: array<WeightWord>, var scales: array<u32>.
// It supplies the kernel: Packed (a chunk as it lies in memory), weight_load, weight_unpack (its 32 elements before scaling)
// and weight_affine (what makes them values: raw * x + y).
// And the same for eight elements: PackedOctet, octet_load, octet_unpack, octet_affine.
// After: chunk, scales.

alias WeightWord = vec4<u32>;
const QUANTISED = true;

struct Packed { a: vec4<u32>, b: vec4<u32>, scale: vec2<u32> }

fn weight_load(row: u32, chunk: u32) -> Packed {
  let i = (row * (K / 32u) + chunk) * 2u;
  return Packed(weight[i], weight[i + 1u], scale_words(row, chunk));
}

fn weight_unpack(packed: Packed) -> Chunk {
  let a = packed.a;
  let b = packed.b;
  return Chunk(vec4<f32>(unpack4xU8(a.x)), vec4<f32>(unpack4xU8(a.y)), vec4<f32>(unpack4xU8(a.z)), vec4<f32>(unpack4xU8(a.w)),
               vec4<f32>(unpack4xU8(b.x)), vec4<f32>(unpack4xU8(b.y)), vec4<f32>(unpack4xU8(b.z)), vec4<f32>(unpack4xU8(b.w)));
}

fn weight_affine(packed: Packed) -> vec2<f32> {
  return scale_pair(packed.scale);
}

struct PackedOctet { words: vec2<u32>, scale: vec2<u32> }

fn octet_load(row: u32, octet: u32) -> PackedOctet {
  let i = row * (K / 16u) + octet / 2u;
  let at = octet % 2u * 2u;
  return PackedOctet(vec2<u32>(weight[i][at], weight[i][at + 1u]), scale_words(row, octet / 4u));
}

fn octet_unpack(p: PackedOctet) -> Octet {
  return Octet(vec4<f32>(unpack4xU8(p.words.x)), vec4<f32>(unpack4xU8(p.words.y)));
}

fn octet_affine(packed: PackedOctet) -> vec2<f32> {
  return scale_pair(packed.scale);
}
