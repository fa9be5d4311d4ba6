// tile_f16.wgsl: matmul's tiles in workgroup memory as f16: half the memory and its traffic; sums stay f32.
// Activations beyond f16's range are cut to its largest value rather than becoming infinite. Feature: shader-f16.

alias TileVec = vec4<f16>;

fn to_tile(v: vec4<f32>) -> TileVec { return TileVec(clamp(v, vec4<f32>(-65504.0), vec4<f32>(65504.0))); }
fn from_tile(v: TileVec) -> vec4<f32> { return vec4<f32>(v); }
