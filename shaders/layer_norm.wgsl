// layer_norm.wgsl: LayerNorm of rows, y = (x - mean(x)) / sqrt(variance(x) + EPS) * (weight + OFFSET) + bias; with ADD, y += that.
//   Ba, Kiros & Hinton 2016, arXiv:1607.06450. Reference: tests/ops/test_norm.py
//
//   binding  name    type  shape   access
//   0        x       f32   [T, K]  read
//   1        weight  f32   [K]     read
//   2        bias    f32   [K]     read         dummy without BIAS
//   3        step    Step  -       read
//   4        y       f32   [T, K]  read_write
//
// Dispatch (T, 1, 1): a workgroup a row; rows from step.rows on do nothing. The variance is summed in a second pass,
// over the distances from the mean: so a row far from 0 loses no precision. Libraries before it: step, tree_sum.

override WG: u32;  // threads, a multiple of 16
override K: u32;
override EPS: f32 = 1e-5;
override OFFSET: f32 = 0.0;
override BIAS: bool = false;
override ADD: bool = false;
override LAST_ROW: bool = false;  // one row of y: that of x's row step.rows - 1

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read> weight: array<f32>;
@group(0) @binding(2) var<storage, read> bias: array<f32>;
@group(0) @binding(3) var<storage, read> step: Step;
@group(0) @binding(4) var<storage, read_write> y: array<f32>;

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  if (group.x >= step.rows) {
    return;
  }
  var source = group.x * K;
  if (LAST_ROW) { source = (step.rows - 1u) * K; }
  var sum = 0.0;
  for (var i = lane; i < K; i += WG) { sum += x[source + i]; }
  let mean = tree_sum(lane, sum) / f32(K);
  sum = 0.0;
  for (var i = lane; i < K; i += WG) {
    let d = x[source + i] - mean;
    sum += d * d;
  }
  let factor = 1.0 / sqrt(tree_sum(lane, sum) / f32(K) + EPS);
  let row = group.x * K;
  for (var i = lane; i < K; i += WG) {
    var v = (x[source + i] - mean) * factor * (weight[i] + OFFSET);
    if (BIAS) { v += bias[i]; }
    if (ADD) { v += y[row + i]; }
    y[row + i] = v;
  }
}
