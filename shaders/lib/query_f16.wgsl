// query_f16.wgsl: prepared query heads as f16 for attention on the tensor units, two elements a word; needs no feature.
// What f16 cannot hold becomes its largest value.

alias QueryQuad = vec2<u32>;

fn query_store(v: vec4<f32>) -> QueryQuad {
  let c = clamp(v, vec4<f32>(-65504.0), vec4<f32>(65504.0));
  return vec2<u32>(pack2x16float(c.xy), pack2x16float(c.zw));
}
