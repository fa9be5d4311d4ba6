// kv_q8.wgsl: reads a KV cache of affine bytes. Interface: kv_f32.wgsl.
// A row is D bytes, then for each 64 of them (the last group may have fewer) the least and the greatest value as a pair of
// f16: v = least + (greatest - least) byte / 255.

alias KvWord = u32;
alias KvQuad = vec2<u32>;  // four bytes; the pair of their group

const KV_GROUP = 16u;  // quads that share a pair

fn kv_words() -> u32 { return D / 4u + (D / 4u + KV_GROUP - 1u) / KV_GROUP; }

fn kv_capacity() -> u32 { return arrayLength(&k_cache) / (HKV * kv_words()); }

fn k_raw(row: u32, quad: u32) -> KvQuad {
  let at = row * kv_words();
  return vec2<u32>(k_cache[at + quad], k_cache[at + D / 4u + quad / KV_GROUP]);
}

fn v_raw(row: u32, quad: u32) -> KvQuad {
  let at = row * kv_words();
  return vec2<u32>(v_cache[at + quad], v_cache[at + D / 4u + quad / KV_GROUP]);
}

fn kv_unpacked(quad: KvQuad) -> vec4<f32> {
  let ends = unpack2x16float(quad.y);
  return ends.x + (ends.y - ends.x) * unpack4x8unorm(quad.x);
}

fn k_quad(row: u32, quad: u32) -> vec4<f32> { return kv_unpacked(k_raw(row, quad)); }

fn v_quad(row: u32, quad: u32) -> vec4<f32> { return kv_unpacked(v_raw(row, quad)); }
