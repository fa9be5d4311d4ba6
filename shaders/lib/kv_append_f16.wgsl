// kv_append_f16.wgsl: appends to a KV cache of f16. What f16 cannot hold becomes its largest value. Interface: kv_append_f32.wgsl.
// Before it: kv_f16.

const KV_SPREADS = false;

fn kv_spread(start: u32, quad: u32) -> vec4<f32> { return new_rows[start + quad]; }

fn kv_new(start: u32, quad: u32) -> KvQuad {
  let c = clamp(new_rows[start + quad], vec4<f32>(-65504.0), vec4<f32>(65504.0));
  return vec2<u32>(pack2x16float(c.xy), pack2x16float(c.zw));
}

fn k_put(row: u32, start: u32, quad: u32) { k_cache[row * (D / 4u) + quad] = kv_new(start, quad); }

fn v_put(row: u32, start: u32, quad: u32) { v_cache[row * (D / 4u) + quad] = kv_new(start, quad); }
