// pool.wgsl: a vector for each text of a pass, of unit length: the mean of its rows, its first row, or its last.
//   Reference: tests/ops/test_pool.py
//
//   binding  name   type       shape   access
//   0        x      f32        [T, K]  read
//   1        texts  vec2<u32>  [S]     read   text s has rows texts[s].x .. texts[s].y - 1; none: its vector is 0
//   2        y      f32        [S, K]  write
//
// Dispatch (S, 1, 1): a workgroup a text. Library before it: tree_sum.

override K: u32;
override POOLING: u32 = 0u;         // the constants below
override NORMALISE: bool = true;    // to unit length; a vector of zeros stays

const MEAN = 0u;
const FIRST = 1u;
const LAST = 2u;

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read> texts: array<vec2<u32>>;
@group(0) @binding(2) var<storage, read_write> y: array<f32>;

const WG = 256u;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  var begin = texts[group.x].x;
  var end = texts[group.x].y;
  var squares = 0.0;
  if (begin < end) {
    if (POOLING == FIRST) { end = begin + 1u; }
    if (POOLING == LAST) { begin = end - 1u; }
  }
  for (var i = lane; i < K; i += WG) {
    var sum = 0.0;
    for (var row = begin; row < end; row++) { sum += x[row * K + i]; }
    if (begin < end) { sum /= f32(end - begin); }
    y[group.x * K + i] = sum;
    squares += sum * sum;
  }
  if (NORMALISE) {
    let factor = 1.0 / max(sqrt(tree_sum(lane, squares)), 1e-12);
    for (var i = lane; i < K; i += WG) { y[group.x * K + i] *= factor; }
  }
}
