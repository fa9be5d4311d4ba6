// matmul_units.wgsl: Y = X W^T for the rows of a prefill chunk on the tensor units: subgroup matrices of 16 x 16, f16 in,
//   sums in f32. X comes as f16 (narrow.wgsl), W is dequantised to f16 once per tile. Both are rounded to 11 bits, so this
//   form is for --dtype f16 and auto only. Reference: tests/ops/test_matmul.py
//
//   binding  name    type        shape             access
//   0        x       f16         [T, K]            read         T % 16 == 0
//   1        weight  WeightWord  [>= N, K]         read         see graph/matrix.py
//   2        scales  u32         [>= N, K/GROUP]   read         pairs; dummy for floats
//   3        bias    f32         [BIAS_OFFSET + N] read         dummy without BIAS
//   4        step    Step        -                 read         step.rows of the T rows are valid; others stay as they are
//   5        y       f32         [T, Y_COLS]       read_write
//
// Dispatch (ceil(N / 64), ceil(T / 64), 1): a workgroup of four subgroups of 32 makes 64 rows of 64 products, a subgroup 16
// of the rows; 64 of K at a time, K % 64 == 0. X is read from memory as it lies, since each row of it serves one subgroup; W
// goes through workgroup memory, since all four read it.
// GATED: blocks of 16 columns are gates and their ups (N/2 rows further on in W) in turn.
// Features: shader-f16, subgroups, subgroup-matrix (host/gpu.py). 17 KiB of workgroup memory.
// Libraries before it: step, chunk, (scales,) weight_<format>, weight_chunk, tile_f16, gate, matmul_out.

override K: u32;
override ROW_BASE: u32 = 0u;  // the N rows begin at this row of the matrix

@group(0) @binding(0) var<storage, read> x: array<f16>;
@group(0) @binding(1) var<storage, read> weight: array<WeightWord>;
@group(0) @binding(2) var<storage, read> scales: array<u32>;
@group(0) @binding(3) var<storage, read> bias: array<f32>;
@group(0) @binding(4) var<storage, read> step: Step;
@group(0) @binding(5) var<storage, read_write> y: array<f32>;

alias Left = subgroup_matrix_left<f16, 16, 16>;
alias Right = subgroup_matrix_right<f16, 16, 16>;
alias Sums = subgroup_matrix_result<f32, 16, 16>;

const STRIDE = 72u;  // 64 of K and 8 more: rows 16 bytes apart from a multiple of all banks, each begins at 16 bytes
var<workgroup> tile: array<f16, 4608>;  // W [64, STRIDE]
var<workgroup> pair: array<f32, 2048>;  // of each subgroup two blocks side by side, [16, 32]

// Row of W behind column c of workgroup g's tile.
fn weight_row(g: u32, c: u32) -> u32 {
  if (EPILOGUE == GATED) {
    let row = ROW_BASE + min(g * 32u + c / 32u * 16u + c % 16u, N / 2u - 1u);
    return row + c % 32u / 16u * (N / 2u);
  }
  return ROW_BASE + min(g * 64u + c, N - 1u);
}

// Two neighbouring blocks of each subgroup's sums, columns from 32 p on, into y.
fn put_pair(thread: u32, subgroup: u32, g: u32, first: u32, p: u32, low: Sums, high: Sums) {
  subgroupMatrixStore(&pair, subgroup * 512u, low, false, 32u);
  subgroupMatrixStore(&pair, subgroup * 512u + 16u, high, false, 32u);
  workgroupBarrier();
  for (var i = thread; i < 2048u; i += 128u) {
    let row = first + i / 32u;
    let c = i % 32u;
    if (row < step.rows) {
      if (EPILOGUE != GATED) {
        put(row, g * 64u + p * 32u + c, pair[i]);
      } else if (c < 16u) {
        put_gated(row, g * 32u + p * 16u + c, pair[i], pair[i + 16u]);
      }
    }
  }
  workgroupBarrier();
}

@compute @workgroup_size(128)
fn main(@builtin(local_invocation_index) thread: u32, @builtin(workgroup_id) workgroup: vec3<u32>,
        @builtin(subgroup_id) subgroup: u32) {
  let first = workgroup.y * 64u;
  if (first >= step.rows) {
    return;  // uniform: a whole workgroup behind the last valid row
  }
  let g = workgroup.x;
  // A subgroup behind the last row repeats the last ones; its sums are not written.
  let row = min(first + subgroup * 16u, arrayLength(&x) / K - 16u);
  let w_row = weight_row(g, thread / 2u);
  let half = thread % 2u;
  let at = thread / 2u * STRIDE + half * 32u;
  var sums0 = Sums();
  var sums1 = Sums();
  var sums2 = Sums();
  var sums3 = Sums();
  for (var k = 0u; k < K; k += 64u) {
    let w = weight_chunk(w_row, k / 32u + half);
    workgroupBarrier();
    // Not in a function: the compiler then sees that the indices are inside, and joins the stores.
    let quads = array<vec4<f32>, 8>(w.v0, w.v1, w.v2, w.v3, w.v4, w.v5, w.v6, w.v7);
    for (var i = 0u; i < 8u; i++) {
      let v = to_tile(quads[i]);
      tile[at + 4u * i] = v.x;
      tile[at + 4u * i + 1u] = v.y;
      tile[at + 4u * i + 2u] = v.z;
      tile[at + 4u * i + 3u] = v.w;
    }
    workgroupBarrier();
    for (var i = 0u; i < 64u; i += 16u) {
      let left = subgroupMatrixLoad<Left>(&x, row * K + k + i, false, K);
      sums0 = subgroupMatrixMultiplyAccumulate(left, subgroupMatrixLoad<Right>(&tile, i, true, STRIDE), sums0);
      sums1 = subgroupMatrixMultiplyAccumulate(
        left, subgroupMatrixLoad<Right>(&tile, 16u * STRIDE + i, true, STRIDE), sums1);
      sums2 = subgroupMatrixMultiplyAccumulate(
        left, subgroupMatrixLoad<Right>(&tile, 32u * STRIDE + i, true, STRIDE), sums2);
      sums3 = subgroupMatrixMultiplyAccumulate(
        left, subgroupMatrixLoad<Right>(&tile, 48u * STRIDE + i, true, STRIDE), sums3);
    }
  }
  put_pair(thread, subgroup, g, first, 0u, sums0, sums1);
  put_pair(thread, subgroup, g, first, 1u, sums2, sums3);
}
