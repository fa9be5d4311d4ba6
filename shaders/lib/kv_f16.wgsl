// kv_f16.wgsl: KV cache as f16, two elements a word; needs no feature. What f16 cannot hold becomes its largest value.

alias KvQuad = vec2<u32>;

fn kv_load(quad: KvQuad) -> vec4<f32> {
  return vec4<f32>(unpack2x16float(quad.x), unpack2x16float(quad.y));
}

fn kv_store(v: vec4<f32>) -> KvQuad {
  let c = clamp(v, vec4<f32>(-65504.0), vec4<f32>(65504.0));
  return vec2<u32>(pack2x16float(c.xy), pack2x16float(c.zw));
}
