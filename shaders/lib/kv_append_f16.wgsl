// kv_append_f16.wgsl: appends to a KV cache of f16. What f16 cannot hold becomes its largest value. Interface: kv_append_f32.wgsl.
// Before it: kv_f16.

fn kv_packed(v: vec4<f32>) -> KvWord {
  let c = clamp(v, vec4<f32>(-65504.0), vec4<f32>(65504.0));
  return vec2<u32>(pack2x16float(c.xy), pack2x16float(c.zw));
}

fn kv_kept(start: u32, quad: u32) -> vec4<f32> { return kv_unpacked(kv_packed(new_rows[start + quad])); }

fn k_put(row: u32, start: u32, quad: u32) { k_cache[row * (D / 4u) + quad] = kv_packed(new_rows[start + quad]); }

fn v_put(row: u32, start: u32, quad: u32) { v_cache[row * (D / 4u) + quad] = kv_packed(new_rows[start + quad]); }
