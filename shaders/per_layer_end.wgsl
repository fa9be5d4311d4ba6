// per_layer_end.wgsl: the end of a layer that has a factor of its own:
//   y = (y + x / sqrt(mean(x^2) + EPS) * weight) * factor. Reference: tests/ops/test_per_layer.py
//   EmbeddingGemma 2: transformers, models/embedding_gemma2 (post_per_layer_input_norm, layer_scalar).
//
//   binding  name    type  shape   access
//   0        x       f32   [T, K]  read    what the last branch gave
//   1        weight  f32   [K]     read
//   2        factor  f32   [1]     read
//   3        step    Step  -       read
//   4        y       f32   [T, K]  read_write
//
// Dispatch (T, 1, 1): a workgroup a row; rows from step.rows on do nothing. Libraries before it: step, tree_sum.

override WG: u32;  // threads, a multiple of 16
override K: u32;
override EPS: f32 = 1e-6;

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read> weight: array<f32>;
@group(0) @binding(2) var<storage, read> factor: array<f32>;
@group(0) @binding(3) var<storage, read> step: Step;
@group(0) @binding(4) var<storage, read_write> y: array<f32>;

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  if (group.x >= step.rows) {
    return;
  }
  let row = group.x * K;
  var sum = 0.0;
  for (var i = lane; i < K; i += WG) {
    let v = x[row + i];
    sum += v * v;
  }
  let length = 1.0 / sqrt(tree_sum(lane, sum) / f32(K) + EPS);
  for (var i = lane; i < K; i += WG) {
    y[row + i] = (y[row + i] + x[row + i] * length * weight[i]) * factor[0];
  }
}
