// quad_f16.wgsl: four elements of a tensor of f16, two a word; needs no feature.

alias Quad = vec2<u32>;

fn quad_load(quad: Quad) -> vec4<f32> {
  return vec4<f32>(unpack2x16float(quad.x), unpack2x16float(quad.y));
}
