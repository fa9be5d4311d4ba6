// narrow.wgsl: rows of activations as f16 for matmul_units.wgsl, with RMSNorm before it where NORM:
//   y = f16(x / sqrt(mean(x^2) + EPS) * (weight + OFFSET)), or y = f16(x); cut to +-65504.
//   Zhang & Sennrich 2019, arXiv:1910.07467. Reference: tests/ops/test_narrow.py
//
//   binding  name    type       shape                    access
//   0        x       vec2<f32>  [T, K / 2]               read
//   1        weight  vec2<f32>  [K / 2]                  read   dummy without NORM
//   2        y       u32        [T / 16, K / 16, 16, 8]  write  two f16 a word; blocks of 16 rows and 16 columns
//
// Dispatch (T, 1, 1): a workgroup a row. T % 16 == K % 16 == 0. Library before it: tree_sum.

override K: u32;
override NORM: bool = false;
override EPS: f32 = 1e-6;
override OFFSET: f32 = 0.0;  // 1.0 for Gemma, whose checkpoints store weight - 1

@group(0) @binding(0) var<storage, read> x: array<vec2<f32>>;
@group(0) @binding(1) var<storage, read> weight: array<vec2<f32>>;
@group(0) @binding(2) var<storage, read_write> y: array<u32>;

const WG = 256u;
const LARGEST = vec2<f32>(65504.0);

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let row = group.x * (K / 2u);
  var factor = 1.0;
  if (NORM) {
    var sum = 0.0;
    for (var i = lane; i < K / 2u; i += WG) {
      let v = x[row + i];
      sum += dot(v, v);
    }
    factor = 1.0 / sqrt(tree_sum(lane, sum) / f32(K) + EPS);
  }
  let out = group.x / 16u * (8u * K) + group.x % 16u * 8u;
  for (var i = lane; i < K / 2u; i += WG) {
    var v = x[row + i];
    if (NORM) { v *= factor * (weight[i] + OFFSET); }
    y[out + i / 8u * 128u + i % 8u] = pack2x16float(clamp(v, -LARGEST, LARGEST));
  }
}
