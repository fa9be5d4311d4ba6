// quad_f16.wgsl: four elements of a tensor of f16, two a word; needs no feature.

alias Quad = vec2<u32>;

fn quad_load(quad: Quad) -> vec4<f32> {
  return vec4<f32>(unpack2x16float(quad.x), unpack2x16float(quad.y));
}

// What f16 cannot hold becomes its largest value.
fn quad_store(v: vec4<f32>) -> Quad {
  let c = clamp(v, vec4<f32>(-65504.0), vec4<f32>(65504.0));
  return vec2<u32>(pack2x16float(c.xy), pack2x16float(c.zw));
}
