// matmul_dot4.wgsl: Y = X W^T for the rows of a prefill chunk, in integers. X comes as integers of 15 bits with a scale for
//   each row, x = s (128 high + low) (quantise.wgsl); W has fields q of 4 or 8 bits with w = S q + B for each group of 64 or
//   128. Over 64 of K
//     sum x w = s (S sum (128 high + low) q + B sum (128 high + low)),
//   dot4I8Packed makes the sums over high q and low q, four products at a time; the rest is f32. Activations are rounded to
//   1/32512 of the largest of their row, so this form is for --dtype f16 and auto only. Reference: tests/ops/test_matmul.py
//
//   binding  name    type        shape             access
//   0        x       vec4<u32>   [T, ROW]          read         as quantise.wgsl writes it
//   1        weight  WeightWord  [>= N, K]         read         see graph/matrix.py
//   2        scales  u32         [>= N, K/GROUP]   read         pairs
//   3        bias    f32         [BIAS_OFFSET + N] read         dummy without BIAS
//   4        step    Step        -                 read         step.rows of the T rows are valid; others stay as they are
//   5        y       f32         [T, Y_COLS]       read_write
//
// Dispatch (ceil(outputs / tile outputs), ceil(T / 64), 1): a workgroup makes 64 rows of 64 products, 64 of K at a time,
// K % 64 == 0. A thread has 4 x 4 of them: rows tt + 16 i, columns tn + 16 j. What it loads from memory waits in registers
// during the products of the previous 64.
// Feature: dot4 (host/gpu.py).
// Libraries before it: step, chunk, scales, weight_<format>, bytes_<format>, gate, matmul_out, matmul_tile.

override K: u32;
override ROW: u32;            // vec4 of a row of X
override ROW_BASE: u32 = 0u;  // the N rows begin at this row of the matrix

@group(0) @binding(0) var<storage, read> x: array<vec4<u32>>;
@group(0) @binding(1) var<storage, read> weight: array<WeightWord>;
@group(0) @binding(2) var<storage, read> scales: array<u32>;
@group(0) @binding(3) var<storage, read> bias: array<f32>;
@group(0) @binding(4) var<storage, read> step: Step;
@group(0) @binding(5) var<storage, read_write> y: array<f32>;

const TILE_N = 64u;
// The 16 bytes k4 of row r stand at k4 * PITCH + r. The pitch is two more than the rows, so that threads which store four
// of a row, or two of a row of W, meet different banks. Where tiles are read, indices are written out in `main` as sums of
// constants and of quotients and remainders of the thread's number: compilers then see that they are inside.
const PITCH = 66u;
const LOW = 4u * PITCH;  // where X's low parts begin
var<workgroup> x_tile: array<vec4<u32>, 8u * PITCH>;
var<workgroup> w_tile: array<vec4<u32>, 4u * PITCH>;
var<workgroup> x_sums: array<f32, 64>;
var<workgroup> w_affine: array<vec2<f32>, 64>;

struct Columns { c0: vec4<u32>, c1: vec4<u32>, c2: vec4<u32>, c3: vec4<u32> }
struct Sums { high: vec4<i32>, low: vec4<i32> }  // of a row and four columns

// sum + the product of 16 bytes and 16 bytes
fn dot16(sum: i32, a: vec4<u32>, b: vec4<u32>) -> i32 {
  return sum + dot4I8Packed(a.x, b.x) + dot4I8Packed(a.y, b.y) + dot4I8Packed(a.z, b.z) + dot4I8Packed(a.w, b.w);
}

fn dots(sums: vec4<i32>, a: vec4<u32>, w: Columns) -> vec4<i32> {
  return vec4<i32>(dot16(sums.x, a, w.c0), dot16(sums.y, a, w.c1), dot16(sums.z, a, w.c2), dot16(sums.w, a, w.c3));
}

fn both(sums: Sums, high: vec4<u32>, low: vec4<u32>, w: Columns) -> Sums {
  return Sums(dots(sums.high, high, w), dots(sums.low, low, w));
}

struct Affine { scale: vec4<f32>, offset: vec4<f32> }  // of four columns

fn affine_of(a: vec2<f32>, b: vec2<f32>, c: vec2<f32>, d: vec2<f32>) -> Affine {
  return Affine(vec4<f32>(a.x, b.x, c.x, d.x), vec4<f32>(a.y, b.y, c.y, d.y));
}

// What 64 of K add to a row's products, but for the row's scale.
fn product(sums: Sums, x_sum: f32, w: Affine) -> vec4<f32> {
  return vec4<f32>(sums.high * 128 + sums.low) * w.scale + x_sum * w.offset;
}

// X's scale of a row.
fn scale_of(row: u32) -> f32 {
  return bitcast<f32>(x[min(row, step.rows - 1u) * ROW + K / 8u + K / 256u][K / 64u % 4u]);
}

@compute @workgroup_size(256)
fn main(@builtin(local_invocation_index) thread: u32, @builtin(workgroup_id) workgroup: vec3<u32>) {
  let first = workgroup.y * 64u;
  if (first >= step.rows) {
    return;  // uniform: a whole workgroup behind the last valid row
  }
  let tn = thread % 16u;
  let tt = thread / 16u;

  // What this thread loads: of a row of X 16 high and 16 low parts, and a sum; 32 fields of a row of W.
  let x_k4 = thread % 4u;
  let x_to = x_k4 * PITCH + thread / 4u;
  let x_from = min(first + thread / 4u, step.rows - 1u) * ROW + x_k4;
  let sums_from = min(first + thread % 64u, step.rows - 1u) * ROW + K / 8u;
  let w_half = thread % 2u;
  let w_col = thread / 2u % 64u;
  let w_to = 2u * w_half * PITCH + w_col;
  let w_row = weight_row(workgroup.x, w_col);
  var high_next = x[x_from];
  var low_next = x[x_from + K / 16u];
  var sum_next = x[sums_from].x;
  var w_next = weight_load(w_row, w_half);

  var acc0 = vec4<f32>();
  var acc1 = vec4<f32>();
  var acc2 = vec4<f32>();
  var acc3 = vec4<f32>();
  for (var c = 0u; c < K / 64u; c++) {
    workgroupBarrier();
    x_tile[x_to] = high_next;
    x_tile[x_to + LOW] = low_next;
    if (thread < 64u) { x_sums[thread] = bitcast<f32>(sum_next); }
    if (thread < 128u) {
      let bytes = weight_bytes(w_next);
      w_tile[w_to] = bytes.lo;
      w_tile[w_to + PITCH] = bytes.hi;
      if (w_half == 0u) { w_affine[w_col] = bytes_affine(w_next); }
    }
    workgroupBarrier();
    let next = min(c + 1u, K / 64u - 1u);
    high_next = x[x_from + 4u * next];
    low_next = x[x_from + K / 16u + 4u * next];
    sum_next = x[sums_from + next / 4u][next % 4u];
    w_next = weight_load(w_row, 2u * next + w_half);
    var s0 = Sums();
    var s1 = Sums();
    var s2 = Sums();
    var s3 = Sums();
    // Four times 16 of K, not in a loop: compilers then load from the tiles ahead of the products.
    {
      let wk = tn;
      let w = Columns(w_tile[wk], w_tile[wk + 16u], w_tile[wk + 32u], w_tile[wk + 48u]);
      let xk = tt;
      s0 = both(s0, x_tile[xk], x_tile[xk + LOW], w);
      s1 = both(s1, x_tile[xk + 16u], x_tile[xk + 16u + LOW], w);
      s2 = both(s2, x_tile[xk + 32u], x_tile[xk + 32u + LOW], w);
      s3 = both(s3, x_tile[xk + 48u], x_tile[xk + 48u + LOW], w);
    }
    {
      let wk = PITCH + tn;
      let w = Columns(w_tile[wk], w_tile[wk + 16u], w_tile[wk + 32u], w_tile[wk + 48u]);
      let xk = PITCH + tt;
      s0 = both(s0, x_tile[xk], x_tile[xk + LOW], w);
      s1 = both(s1, x_tile[xk + 16u], x_tile[xk + 16u + LOW], w);
      s2 = both(s2, x_tile[xk + 32u], x_tile[xk + 32u + LOW], w);
      s3 = both(s3, x_tile[xk + 48u], x_tile[xk + 48u + LOW], w);
    }
    {
      let wk = 2u * PITCH + tn;
      let w = Columns(w_tile[wk], w_tile[wk + 16u], w_tile[wk + 32u], w_tile[wk + 48u]);
      let xk = 2u * PITCH + tt;
      s0 = both(s0, x_tile[xk], x_tile[xk + LOW], w);
      s1 = both(s1, x_tile[xk + 16u], x_tile[xk + 16u + LOW], w);
      s2 = both(s2, x_tile[xk + 32u], x_tile[xk + 32u + LOW], w);
      s3 = both(s3, x_tile[xk + 48u], x_tile[xk + 48u + LOW], w);
    }
    {
      let wk = 3u * PITCH + tn;
      let w = Columns(w_tile[wk], w_tile[wk + 16u], w_tile[wk + 32u], w_tile[wk + 48u]);
      let xk = 3u * PITCH + tt;
      s0 = both(s0, x_tile[xk], x_tile[xk + LOW], w);
      s1 = both(s1, x_tile[xk + 16u], x_tile[xk + 16u + LOW], w);
      s2 = both(s2, x_tile[xk + 32u], x_tile[xk + 32u + LOW], w);
      s3 = both(s3, x_tile[xk + 48u], x_tile[xk + 48u + LOW], w);
    }
    let w = affine_of(w_affine[tn], w_affine[tn + 16u], w_affine[tn + 32u], w_affine[tn + 48u]);
    acc0 += product(s0, x_sums[tt], w);
    acc1 += product(s1, x_sums[tt + 16u], w);
    acc2 += product(s2, x_sums[tt + 32u], w);
    acc3 += product(s3, x_sums[tt + 48u], w);
  }
  let row = first + tt;
  let g = workgroup.x;
  put_row(row, g, tn, acc0 * scale_of(row));
  put_row(row + 16u, g, tn, acc1 * scale_of(row + 16u));
  put_row(row + 32u, g, tn, acc2 * scale_of(row + 32u));
  put_row(row + 48u, g, tn, acc3 * scale_of(row + 48u));
}
