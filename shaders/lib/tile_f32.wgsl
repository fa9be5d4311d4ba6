// tile_f32.wgsl: matmul's tiles in workgroup memory as f32.

alias TileVec = vec4<f32>;

fn to_tile(v: vec4<f32>) -> TileVec { return v; }
fn from_tile(v: TileVec) -> vec4<f32> { return v; }
