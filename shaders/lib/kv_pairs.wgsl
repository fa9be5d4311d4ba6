// kv_pairs.wgsl: reads two neighbouring quads of a row of a KV cache at a time. A quad behind the row's end is the last one.
// The other form is kv_f16_wide. Before it: kv_f32, kv_f16 or kv_q8.

struct KvPair { a: KvQuad, b: KvQuad }

// Quads 2 pair and 2 pair + 1.
fn k_pair(row: u32, pair: u32) -> KvPair {
  let last = D / 4u - 1u;
  return KvPair(k_raw(row, min(2u * pair, last)), k_raw(row, min(2u * pair + 1u, last)));
}

fn v_pair(row: u32, pair: u32) -> KvPair {
  let last = D / 4u - 1u;
  return KvPair(v_raw(row, min(2u * pair, last)), v_raw(row, min(2u * pair + 1u, last)));
}
