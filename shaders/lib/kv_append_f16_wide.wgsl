// kv_append_f16_wide.wgsl: appends to a KV cache of f16 eight elements at a time. What f16 cannot hold becomes its largest value.
// Interface: kv_append_f32.wgsl. Before it: kv_f16_wide.

const KV_SPREADS = false;

fn kv_spread(start: u32, quad: u32) -> vec4<f32> { return new_rows[start + quad]; }

fn kv_new(start: u32, quad: u32) -> KvQuad {
  let c = clamp(new_rows[start + quad], vec4<f32>(-65504.0), vec4<f32>(65504.0));
  return vec2<u32>(pack2x16float(c.xy), pack2x16float(c.zw));
}

// The call for an even quad stores the next one too: a word is stored whole.
fn k_put(row: u32, start: u32, quad: u32) {
  if (quad % 2u == 0u) { k_cache[row * (D / 8u) + quad / 2u] = vec4<u32>(kv_new(start, quad), kv_new(start, quad + 1u)); }
}

fn v_put(row: u32, start: u32, quad: u32) {
  if (quad % 2u == 0u) { v_cache[row * (D / 8u) + quad / 2u] = vec4<u32>(kv_new(start, quad), kv_new(start, quad + 1u)); }
}
