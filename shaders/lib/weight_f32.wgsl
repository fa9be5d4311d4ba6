// weight_f32.wgsl: rows of f32; K % 32 == 0.
//
// The kernel supplies: override K (row length), var weight: array<WeightWord>, var scales: array<u32>.
// It supplies the kernel: Packed (a chunk as it lies in memory), weight_load, weight_unpack (its 32 elements before scaling)
// and weight_affine (what makes them values: raw * x + y).
// And the same for eight elements: PackedOctet, octet_load, octet_unpack, octet_affine.
// After: chunk.

alias WeightWord = vec4<u32>;
const QUANTISED = false;

alias Packed = Chunk;

fn weight_load(row: u32, chunk: u32) -> Packed {
  let i = (row * (K / 32u) + chunk) * 8u;
  return Chunk(bitcast<vec4<f32>>(weight[i]), bitcast<vec4<f32>>(weight[i + 1u]),
               bitcast<vec4<f32>>(weight[i + 2u]), bitcast<vec4<f32>>(weight[i + 3u]),
               bitcast<vec4<f32>>(weight[i + 4u]), bitcast<vec4<f32>>(weight[i + 5u]),
               bitcast<vec4<f32>>(weight[i + 6u]), bitcast<vec4<f32>>(weight[i + 7u]));
}

fn weight_unpack(packed: Packed) -> Chunk { return packed; }

alias PackedOctet = Octet;

fn octet_load(row: u32, octet: u32) -> PackedOctet {
  let i = (row * (K / 8u) + octet) * 2u;
  return Octet(bitcast<vec4<f32>>(weight[i]), bitcast<vec4<f32>>(weight[i + 1u]));
}

fn octet_unpack(packed: PackedOctet) -> Octet { return packed; }

// Both are never called (QUANTISED is false); they mention the binding, so that the layout keeps it.
fn weight_affine(packed: Packed) -> vec2<f32> {
  return vec2<f32>(1.0, bitcast<f32>(scales[0]));
}

fn octet_affine(packed: PackedOctet) -> vec2<f32> {
  return vec2<f32>(1.0, bitcast<f32>(scales[0]));
}
