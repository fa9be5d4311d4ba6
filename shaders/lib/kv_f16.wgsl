// kv_f16.wgsl: reads a KV cache of f16, two elements a word; needs no feature. Interface: kv_f32.wgsl.

alias KvWord = vec2<u32>;
alias KvQuad = vec2<u32>;

fn kv_capacity() -> u32 { return arrayLength(&k_cache) / (HKV * (D / 4u)); }

fn k_raw(row: u32, quad: u32) -> KvQuad { return k_cache[row * (D / 4u) + quad]; }

fn v_raw(row: u32, quad: u32) -> KvQuad { return v_cache[row * (D / 4u) + quad]; }

fn kv_unpacked(quad: KvQuad) -> vec4<f32> {
  return vec4<f32>(unpack2x16float(quad.x), unpack2x16float(quad.y));
}

fn k_quad(row: u32, quad: u32) -> vec4<f32> { return kv_unpacked(k_raw(row, quad)); }

fn v_quad(row: u32, quad: u32) -> vec4<f32> { return kv_unpacked(v_raw(row, quad)); }
