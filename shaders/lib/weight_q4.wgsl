// weight_q4.wgsl: rows of 4-bit fields, 8 a word, lowest first; K % 32 == 0, so a chunk is one vec4<u32>.
//
// The kernel supplies: override K (row length), var weight: array<WeightWord>, var scales: array<u32>.
// It supplies the kernel: Packed (a chunk as it lies in memory), weight_load, weight_unpack (its 32 elements before scaling)
// and weight_affine (what makes them values: raw * x + y).
// And the same for eight elements: PackedOctet, octet_load, octet_unpack, octet_affine.
// After: chunk, scales.

alias WeightWord = vec4<u32>;
const QUANTISED = true;

// How a field q becomes a float; which is fastest is the GPU's affair (py_engine/diagnostics/matvec_bench.py).
//   0: bytes by unpack4xU8, then integer to float.
//   1: f32 mantissa: bits of 1.0 with q as the top of the mantissa = 1 + q/16, no conversion.
//   2: the same with two f16 in a word, widened by unpack2x16float (exact: 10 mantissa bits hold q).
override Q4_UNPACK: u32 = 0u;

fn q4_mantissa(word: u32) -> vec4<f32> {
  let bits = (vec4<u32>(word << 19u, word << 15u, word << 11u, word << 7u) & vec4<u32>(0x780000u)) | vec4<u32>(0x3f800000u);
  return bitcast<vec4<f32>>(bits);
}

fn q4_halves(word: u32) -> vec2<f32> {
  return unpack2x16float((word & 0x03c003c0u) | 0x3c003c00u);
}

fn q4_octet(word: u32) -> Octet {
  if (Q4_UNPACK == 1u) {
    return Octet(q4_mantissa(word), q4_mantissa(word >> 16u));
  }
  if (Q4_UNPACK == 2u) {
    let e0 = q4_halves(word << 6u);  // elements 0 and 4
    let e1 = q4_halves(word << 2u);
    let e2 = q4_halves(word >> 2u);
    let e3 = q4_halves(word >> 6u);
    return Octet(vec4<f32>(e0.x, e1.x, e2.x, e3.x), vec4<f32>(e0.y, e1.y, e2.y, e3.y));
  }
  let even = vec4<f32>(unpack4xU8(word & 0x0f0f0f0fu));
  let odd = vec4<f32>(unpack4xU8((word >> 4u) & 0x0f0f0f0fu));
  return Octet(vec4<f32>(even.x, odd.x, even.y, odd.y), vec4<f32>(even.z, odd.z, even.w, odd.w));
}

struct Packed { words: vec4<u32>, scale: vec2<u32> }

fn weight_load(row: u32, chunk: u32) -> Packed {
  return Packed(weight[row * (K / 32u) + chunk], scale_words(row, chunk));
}

fn weight_unpack(packed: Packed) -> Chunk {
  let a = q4_octet(packed.words.x);
  let b = q4_octet(packed.words.y);
  let c = q4_octet(packed.words.z);
  let d = q4_octet(packed.words.w);
  return Chunk(a.lo, a.hi, b.lo, b.hi, c.lo, c.hi, d.lo, d.hi);
}

fn q4_affine(scale: vec2<u32>) -> vec2<f32> {
  let pair = scale_pair(scale);
  if (Q4_UNPACK != 0u) {
    return vec2<f32>(16.0 * pair.x, pair.y - 16.0 * pair.x);  // raw = 1 + q/16
  }
  return pair;
}

fn weight_affine(packed: Packed) -> vec2<f32> {
  return q4_affine(packed.scale);
}

struct PackedOctet { word: u32, scale: vec2<u32> }

fn octet_load(row: u32, octet: u32) -> PackedOctet {
  return PackedOctet(weight[row * (K / 32u) + octet / 4u][octet % 4u], scale_words(row, octet / 4u));
}

fn octet_unpack(packed: PackedOctet) -> Octet {
  return q4_octet(packed.word);
}

fn octet_affine(packed: PackedOctet) -> vec2<f32> {
  return q4_affine(packed.scale);
}
