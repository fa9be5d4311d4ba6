// norm_parts.wgsl: parts of rows normed in place, each by weights of its own; columns after the parts are not changed.
//   y_p = y_p / sqrt(mean(y_p^2) + EPS) * weight_p, or with CENTRED (y_p - mean(y_p)) / sqrt(variance(y_p) + EPS) * weight_p.
//   COUNT parts of WIDTH, then others of WIDTH_2: q and k in stacked projections, whole (OLMo 2) or head by head (StableLM).
//   Reference: tests/ops/test_norm.py
//
//   binding  name    type  shape       access
//   0        weight  f32   [of parts]  read         in the order of the columns
//   1        step    Step  -           read
//   2        y       f32   [T, COLS]   read_write
//
// Dispatch (T, parts, 1): a workgroup a part of a row; rows from step.rows on do nothing. Libraries before it: step, tree_sum.

override WG: u32;  // threads, a multiple of 16
override COLS: u32;
override COUNT: u32;
override WIDTH: u32;
override WIDTH_2: u32;
override EPS: f32 = 1e-6;
override CENTRED: bool = false;

@group(0) @binding(0) var<storage, read> weight: array<f32>;
@group(0) @binding(1) var<storage, read> step: Step;
@group(0) @binding(2) var<storage, read_write> y: array<f32>;

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  if (group.x >= step.rows) {
    return;
  }
  var begin = group.y * WIDTH;
  var n = WIDTH;
  if (group.y >= COUNT) {
    begin = COUNT * WIDTH + (group.y - COUNT) * WIDTH_2;
    n = WIDTH_2;
  }
  let row = group.x * COLS + begin;
  var mean = 0.0;
  if (CENTRED) {
    var sum = 0.0;
    for (var i = lane; i < n; i += WG) { sum += y[row + i]; }
    mean = tree_sum(lane, sum) / f32(n);
  }
  var squares = 0.0;
  for (var i = lane; i < n; i += WG) {
    let d = y[row + i] - mean;
    squares += d * d;
  }
  let factor = 1.0 / sqrt(tree_sum(lane, squares) / f32(n) + EPS);
  for (var i = lane; i < n; i += WG) {
    y[row + i] = (y[row + i] - mean) * factor * weight[begin + i];
  }
}
