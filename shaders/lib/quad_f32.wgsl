// quad_f32.wgsl: four elements of a tensor of f32.

alias Quad = vec4<f32>;

fn quad_load(quad: Quad) -> vec4<f32> { return quad; }

fn quad_store(v: vec4<f32>) -> Quad { return v; }
