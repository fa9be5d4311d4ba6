// kv_f16.wgsl: reads a KV cache of f16, two elements a word; needs no feature. Interface: kv_f32.wgsl.

alias KvWord = vec2<u32>;

fn kv_unpacked(word: KvWord) -> vec4<f32> {
  return vec4<f32>(unpack2x16float(word.x), unpack2x16float(word.y));
}

fn kv_capacity() -> u32 { return arrayLength(&k_cache) / (HKV * (D / 4u)); }

fn k_quad(row: u32, quad: u32) -> vec4<f32> { return kv_unpacked(k_cache[row * (D / 4u) + quad]); }

fn v_quad(row: u32, quad: u32) -> vec4<f32> { return kv_unpacked(v_cache[row * (D / 4u) + quad]); }
