// kv_f32.wgsl: reads a KV cache of f32. The other forms, kv_f16 and kv_q8, define the same functions.
//
// The kernel supplies: overrides D (the head size) and HKV, and the bindings k_cache and v_cache: array<KvWord>,
// [HKV, capacity, words of a row]. They end with the cache, so that growing it needs no new pipeline.
// Row `row` of both is kv_head * kv_capacity() + position; quad `quad` of it has the elements 4 quad .. 4 quad + 3.
// A kernel that loads long before it uses keeps quads as they come from memory: kv_unpacked(k_raw(..)) is k_quad(..).

alias KvWord = vec4<f32>;
alias KvQuad = vec4<f32>;  // a quad as it comes from memory

fn kv_capacity() -> u32 { return arrayLength(&k_cache) / (HKV * (D / 4u)); }

fn k_raw(row: u32, quad: u32) -> KvQuad { return k_cache[row * (D / 4u) + quad]; }

fn v_raw(row: u32, quad: u32) -> KvQuad { return v_cache[row * (D / 4u) + quad]; }

fn kv_unpacked(quad: KvQuad) -> vec4<f32> { return quad; }

fn k_quad(row: u32, quad: u32) -> vec4<f32> { return kv_unpacked(k_raw(row, quad)); }

fn v_quad(row: u32, quad: u32) -> vec4<f32> { return kv_unpacked(v_raw(row, quad)); }
