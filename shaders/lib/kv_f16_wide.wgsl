// kv_f16_wide.wgsl: reads a KV cache of f16 (kv_f16.wgsl) eight elements at a time, for heads whose size is a multiple of 8.
// It has only what attention_decode.wgsl reads with. Interface: kv_f32.wgsl and kv_pairs.wgsl.

alias KvWord = vec4<u32>;  // a pair of quads
alias KvQuad = vec2<u32>;

struct KvPair { a: KvQuad, b: KvQuad }

fn kv_capacity() -> u32 { return arrayLength(&k_cache) / (HKV * (D / 8u)); }

fn k_pair(row: u32, pair: u32) -> KvPair {
  let word = k_cache[row * (D / 8u) + min(pair, D / 8u - 1u)];
  return KvPair(word.xy, word.zw);
}

fn v_pair(row: u32, pair: u32) -> KvPair {
  let word = v_cache[row * (D / 8u) + min(pair, D / 8u - 1u)];
  return KvPair(word.xy, word.zw);
}

fn kv_unpacked(quad: KvQuad) -> vec4<f32> {
  return vec4<f32>(unpack2x16float(quad.x), unpack2x16float(quad.y));
}
