// kv_f32.wgsl: KV cache as f32, four elements a word group.

alias KvQuad = vec4<f32>;

fn kv_load(quad: KvQuad) -> vec4<f32> { return quad; }

fn kv_store(v: vec4<f32>) -> KvQuad { return v; }
