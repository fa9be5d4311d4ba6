// query_f32.wgsl: prepared query heads as f32, four elements a word group.

alias QueryQuad = vec4<f32>;

fn query_store(v: vec4<f32>) -> QueryQuad { return v; }
