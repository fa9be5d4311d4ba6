// quantise.wgsl: rows of activations as integers of 15 bits for matmul_dot4.wgsl, with RMSNorm before it where NORM:
//   v = x / sqrt(mean(x^2) + EPS) * (weight + OFFSET), or v = x; cut to +-LARGEST. For each row s = max |v| / 16256 and
//   q = round(v / s) = 128 high + low, so that v is about s q, with both parts in 8 bits.
//   Zhang & Sennrich 2019, arXiv:1910.07467. Reference: tests/ops/test_quantise.py
//
//   binding  name    type       shape       access
//   0        x       vec4<f32>  [T, K / 4]  read
//   1        weight  vec4<f32>  [K / 4]     read   dummy without NORM
//   2        y       u32        [T, WORDS]  write
//
// A row of y: K / 4 words of high parts, K / 4 words of low parts, for each 64 of K the sum of its q's as f32, s as
// f32, and padding to whole vec4s. Eight parts are two words, first the even places, then the odd ones: the order in
// which the 4-bit fields of q4 become bytes.
// Dispatch (T, 1, 1): a workgroup a row. K % 64 == 0. Libraries before it: tree_sum, tree_max.

override K: u32;
override WORDS: u32;  // of a row of y
override NORM: bool = false;
override EPS: f32 = 1e-6;
override OFFSET: f32 = 0.0;  // 1.0 for Gemma, whose checkpoints store weight - 1

@group(0) @binding(0) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> weight: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read_write> y: array<u32>;

const WG = 128u;
const MOST = 16256.0;  // 127 * 128
const LARGEST = vec4<f32>(1e30);
const SMALLEST = 1e-30;  // a row below it becomes zeros: 1 / s would be infinite

var<workgroup> sums: array<i32, WG>;  // of a thread's eight numbers

// v but for the factor that all of a row have.
fn weighted(row: u32, at: u32) -> vec4<f32> {
  var v = x[row + at];
  if (NORM) { v *= weight[at] + OFFSET; }
  return clamp(v, -LARGEST, LARGEST);
}

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let row = group.x * (K / 4u);
  var squares = 0.0;
  var top = 0.0;
  for (var i = lane; i < K / 4u; i += WG) {
    let v = x[row + i];
    squares += dot(v, v);
    let m = abs(weighted(row, i));
    top = max(top, max(max(m.x, m.y), max(m.z, m.w)));
  }
  top = tree_max(lane, top);
  var factor = 1.0;
  if (NORM) { factor = 1.0 / sqrt(tree_sum(lane, squares) / f32(K) + EPS); }
  var scale = 0.0;
  var inverse = 0.0;
  if (top >= SMALLEST) {
    scale = top * factor / MOST;
    inverse = MOST / top;
  }
  let out = group.x * WORDS;
  for (var first = 0u; first < K / 8u; first += WG) {
    let octet = first + lane;
    if (octet < K / 8u) {
      let a = vec4<i32>(round(weighted(row, 2u * octet) * inverse));
      let b = vec4<i32>(round(weighted(row, 2u * octet + 1u) * inverse));
      let a_high = (a + 64) >> vec4<u32>(7u);
      let b_high = (b + 64) >> vec4<u32>(7u);
      let a_low = a - a_high * 128;
      let b_low = b - b_high * 128;
      let at = out + 2u * octet;
      y[at] = pack4xI8(vec4<i32>(a_high.xz, b_high.xz));
      y[at + 1u] = pack4xI8(vec4<i32>(a_high.yw, b_high.yw));
      y[at + K / 4u] = pack4xI8(vec4<i32>(a_low.xz, b_low.xz));
      y[at + K / 4u + 1u] = pack4xI8(vec4<i32>(a_low.yw, b_low.yw));
      let both = a + b;
      sums[lane] = (both.x + both.y) + (both.z + both.w);
    }
    workgroupBarrier();
    if (octet < K / 8u && lane % 8u == 0u) {
      var sum = 0;
      for (var i = 0u; i < 8u; i++) { sum += sums[lane + i]; }
      y[out + K / 2u + octet / 8u] = bitcast<u32>(f32(sum));
    }
    workgroupBarrier();
  }
  if (lane == 0u) { y[out + K / 2u + K / 64u] = bitcast<u32>(scale); }
}
