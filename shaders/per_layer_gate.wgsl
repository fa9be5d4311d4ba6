// per_layer_gate.wgsl: a layer's gate times its per-layer signal, which is normed on the way:
//   y = y * p / sqrt(mean(p^2) + EPS) * weight. EmbeddingGemma 2's per-layer embeddings; transformers,
//   models/embedding_gemma2 (EmbeddingGemma2TextPLE and PLEBlock). Reference: tests/ops/test_per_layer.py
//
//   binding  name    type  shape   access
//   0        p       f32   [T, K]  read
//   1        weight  f32   [K]     read
//   2        step    Step  -       read
//   3        y       f32   [T, K]  read_write
//
// Dispatch (T, 1, 1): a workgroup a row; rows from step.rows on do nothing. Libraries before it: step, tree_sum.

override WG: u32;  // threads, a multiple of 16
override K: u32;
override EPS: f32 = 1e-6;

@group(0) @binding(0) var<storage, read> p: array<f32>;
@group(0) @binding(1) var<storage, read> weight: array<f32>;
@group(0) @binding(2) var<storage, read> step: Step;
@group(0) @binding(3) var<storage, read_write> y: array<f32>;

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  if (group.x >= step.rows) {
    return;
  }
  let row = group.x * K;
  var sum = 0.0;
  for (var i = lane; i < K; i += WG) {
    let v = p[row + i];
    sum += v * v;
  }
  let factor = 1.0 / sqrt(tree_sum(lane, sum) / f32(K) + EPS);
  for (var i = lane; i < K; i += WG) {
    y[row + i] *= p[row + i] * factor * weight[i];
  }
}
