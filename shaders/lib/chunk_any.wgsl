// chunk_any.wgsl: chunks of rows whose length is no multiple of 32: element by element, zeros behind the row's end.
//
// The kernel supplies: override K, var weight: array<WeightWord>, var scales: array<u32>; a weight_*_any.wgsl: element.
// After: chunk.

alias WeightWord = u32;
const QUANTISED = false;

fn element_or_zero(row: u32, k: u32) -> f32 {
  return select(0.0, element(row * K + min(k, K - 1u)), k < K);  // no branch: a chunk has 32 of them
}

fn element_vec4(row: u32, k: u32) -> vec4<f32> {
  return vec4<f32>(element_or_zero(row, k), element_or_zero(row, k + 1u),
                   element_or_zero(row, k + 2u), element_or_zero(row, k + 3u));
}

alias Packed = Chunk;

fn weight_load(row: u32, chunk: u32) -> Packed {
  let k = chunk * 32u;
  return Chunk(element_vec4(row, k), element_vec4(row, k + 4u), element_vec4(row, k + 8u), element_vec4(row, k + 12u),
               element_vec4(row, k + 16u), element_vec4(row, k + 20u), element_vec4(row, k + 24u), element_vec4(row, k + 28u));
}

fn weight_unpack(packed: Packed) -> Chunk { return packed; }

alias PackedOctet = Octet;

fn octet_load(row: u32, octet: u32) -> PackedOctet {
  return Octet(element_vec4(row, octet * 8u), element_vec4(row, octet * 8u + 4u));
}

fn octet_unpack(packed: PackedOctet) -> Octet { return packed; }

// Both are never called (QUANTISED is false); they mention the binding, so that the layout keeps it.
fn weight_affine(packed: Packed) -> vec2<f32> {
  return vec2<f32>(1.0, bitcast<f32>(scales[0]));
}

fn octet_affine(packed: PackedOctet) -> vec2<f32> {
  return vec2<f32>(1.0, bitcast<f32>(scales[0]));
}
