// matmul_units.wgsl: Y = X W^T for the rows of a prefill chunk on the tensor units: subgroup matrices of 16 x 16, f16 in,
//   sums in f32. X comes as f16 (narrow.wgsl), W is dequantised to f16 once per tile. Both are rounded to 11 bits, so this
//   form is for --dtype f16 and auto only. Reference: tests/ops/test_matmul.py
//
//   binding  name    type        shape                   access
//   0        x       Block       [T/16, K/16]            read         T % 16 == 0: f16 of 16 rows and 16 columns, row by row
//   1        weight  WeightWord  [>= N, K]               read         see graph/matrix.py
//   2        scales  u32         [>= N, K/GROUP]         read         pairs; dummy for floats
//   3        bias    f32         [BIAS_OFFSET + N]       read         dummy without BIAS
//   4        step    Step        -                       read         step.rows of the T rows are valid; others stay as they are
//   5        y       f32         [T, Y_COLS]             read_write
//
// Dispatch (ceil(N / 32), ceil(T / 128), 1): a workgroup of four subgroups of 32 makes 128 rows of 32 products, a subgroup 32
// of the rows; 64 of K at a time, K % 64 == 0. X is read from memory as it lies, since each row of it serves one subgroup; W
// goes through workgroup memory, since all four read it. Of both, what is needed next is loaded before the products.
// GATED: 16 of the columns are gates, the others their ups (N/2 rows further on in W).
// Features: shader-f16, subgroups, subgroup-matrix (host/gpu.py).
// Libraries before it: step, chunk, (scales,) weight_<format>, weight_octet, tile_f16, gate, matmul_out.

override K: u32;
override ROW_BASE: u32 = 0u;  // the N rows begin at this row of the matrix

@group(0) @binding(0) var<storage, read> x: array<Block>;
@group(0) @binding(1) var<storage, read> weight: array<WeightWord>;
@group(0) @binding(2) var<storage, read> scales: array<u32>;
@group(0) @binding(3) var<storage, read> bias: array<f32>;
@group(0) @binding(4) var<storage, read> step: Step;
@group(0) @binding(5) var<storage, read_write> y: array<f32>;

// A matrix is loaded from the beginning of a block. From a place in one long array, browsers would first ask whether it all
// lies inside: a branch for each load, which made this kernel take twice its time (Chromium 150, H200).
alias Block = array<f16, 256>;
alias Left = subgroup_matrix_left<f16, 16, 16>;
alias Right = subgroup_matrix_right<f16, 16, 16>;
alias Sums = subgroup_matrix_result<f32, 16, 16>;

const STRIDE = 72u;  // 64 of K and 8 more: rows 16 bytes apart from a multiple of all banks, each begins at 16 bytes
var<workgroup> tile: array<f16, 2304>;  // W [32, STRIDE]
var<workgroup> pair: array<f32, 2048>;  // of each subgroup two blocks side by side, [16, 32]

// Row of W behind column c of workgroup g's tile.
fn weight_row(g: u32, c: u32) -> u32 {
  if (EPILOGUE == GATED) { return ROW_BASE + min(g * 16u + c % 16u, N / 2u - 1u) + c / 16u * (N / 2u); }
  return ROW_BASE + min(g * 32u + c, N - 1u);
}

// Two neighbouring blocks of each subgroup's sums into y; first: of the 16 rows that the first subgroup has.
fn put_pair(thread: u32, subgroup: u32, g: u32, first: u32, low: Sums, high: Sums) {
  workgroupBarrier();
  subgroupMatrixStore(&pair, subgroup * 512u, low, false, 32u);
  subgroupMatrixStore(&pair, subgroup * 512u + 16u, high, false, 32u);
  workgroupBarrier();
  for (var i = thread; i < 2048u; i += 128u) {
    let row = first + i / 512u * 32u + i / 32u % 16u;
    let c = i % 32u;
    if (row < step.rows) {
      if (EPILOGUE != GATED) {
        put(row, g * 32u + c, pair[i]);
      } else if (c < 16u) {
        put_gated(row, g * 16u + c, pair[i], pair[i + 16u]);
      }
    }
  }
}

@compute @workgroup_size(128)
fn main(@builtin(local_invocation_index) thread: u32, @builtin(workgroup_id) workgroup: vec3<u32>,
        @builtin(subgroup_id) subgroup: u32) {
  let first = workgroup.y * 128u;
  if (first >= step.rows) {
    return;  // uniform: a whole workgroup behind the last valid row
  }
  let g = workgroup.x;
  // The subgroup's rows of blocks of X. What lies behind the last one repeats it; its sums are not written.
  let row_of_blocks = K / 16u;
  let last = arrayLength(&x) / row_of_blocks - 1u;
  let upper = min(first / 16u + 2u * subgroup, last) * row_of_blocks;
  let lower = min(first / 16u + 2u * subgroup + 1u, last) * row_of_blocks;
  // Of W's tile this thread loads an octet of each of two rows.
  let octet = thread % 8u;
  let at = thread / 8u * STRIDE + octet * 8u;
  let w_row = weight_row(g, thread / 8u);
  let w_row_2 = weight_row(g, thread / 8u + 16u);
  var w_next = octet_load(w_row, octet);
  var w_next_2 = octet_load(w_row_2, octet);
  var upper0 = subgroupMatrixLoad<Left>(&x[upper], 0u, false, 16u);
  var lower0 = subgroupMatrixLoad<Left>(&x[lower], 0u, false, 16u);
  var upper1 = subgroupMatrixLoad<Left>(&x[upper + 1u], 0u, false, 16u);
  var lower1 = subgroupMatrixLoad<Left>(&x[lower + 1u], 0u, false, 16u);
  var upper2 = subgroupMatrixLoad<Left>(&x[upper + 2u], 0u, false, 16u);
  var lower2 = subgroupMatrixLoad<Left>(&x[lower + 2u], 0u, false, 16u);
  var upper3 = subgroupMatrixLoad<Left>(&x[upper + 3u], 0u, false, 16u);
  var lower3 = subgroupMatrixLoad<Left>(&x[lower + 3u], 0u, false, 16u);
  var sums0 = Sums();
  var sums1 = Sums();
  var sums2 = Sums();
  var sums3 = Sums();
  for (var k = 0u; k < K; k += 64u) {
    workgroupBarrier();
    // Neither in a function nor in a loop over an array: the compiler then sees that the indices are inside and joins the
    // stores, and nothing goes to slow memory.
    let w = octet_values(w_next);
    let w_2 = octet_values(w_next_2);
    let quad0 = to_tile(w.lo);
    tile[at] = quad0.x;
    tile[at + 1u] = quad0.y;
    tile[at + 2u] = quad0.z;
    tile[at + 3u] = quad0.w;
    let quad1 = to_tile(w.hi);
    tile[at + 4u] = quad1.x;
    tile[at + 5u] = quad1.y;
    tile[at + 6u] = quad1.z;
    tile[at + 7u] = quad1.w;
    let quad2 = to_tile(w_2.lo);
    tile[at + 16u * STRIDE] = quad2.x;
    tile[at + 16u * STRIDE + 1u] = quad2.y;
    tile[at + 16u * STRIDE + 2u] = quad2.z;
    tile[at + 16u * STRIDE + 3u] = quad2.w;
    let quad3 = to_tile(w_2.hi);
    tile[at + 16u * STRIDE + 4u] = quad3.x;
    tile[at + 16u * STRIDE + 5u] = quad3.y;
    tile[at + 16u * STRIDE + 6u] = quad3.z;
    tile[at + 16u * STRIDE + 7u] = quad3.w;
    workgroupBarrier();
    let next = min(k + 64u, K - 64u);
    w_next = octet_load(w_row, next / 8u + octet);
    w_next_2 = octet_load(w_row_2, next / 8u + octet);
    let next_blocks = next / 16u;
    let next_upper0 = subgroupMatrixLoad<Left>(&x[upper + next_blocks], 0u, false, 16u);
    let next_lower0 = subgroupMatrixLoad<Left>(&x[lower + next_blocks], 0u, false, 16u);
    let next_upper1 = subgroupMatrixLoad<Left>(&x[upper + next_blocks + 1u], 0u, false, 16u);
    let next_lower1 = subgroupMatrixLoad<Left>(&x[lower + next_blocks + 1u], 0u, false, 16u);
    let next_upper2 = subgroupMatrixLoad<Left>(&x[upper + next_blocks + 2u], 0u, false, 16u);
    let next_lower2 = subgroupMatrixLoad<Left>(&x[lower + next_blocks + 2u], 0u, false, 16u);
    let next_upper3 = subgroupMatrixLoad<Left>(&x[upper + next_blocks + 3u], 0u, false, 16u);
    let next_lower3 = subgroupMatrixLoad<Left>(&x[lower + next_blocks + 3u], 0u, false, 16u);
    let left0 = subgroupMatrixLoad<Right>(&tile, 0u, true, STRIDE);
    let right0 = subgroupMatrixLoad<Right>(&tile, 16u * STRIDE, true, STRIDE);
    sums0 = subgroupMatrixMultiplyAccumulate(upper0, left0, sums0);
    sums1 = subgroupMatrixMultiplyAccumulate(upper0, right0, sums1);
    sums2 = subgroupMatrixMultiplyAccumulate(lower0, left0, sums2);
    sums3 = subgroupMatrixMultiplyAccumulate(lower0, right0, sums3);
    let left1 = subgroupMatrixLoad<Right>(&tile, 16u, true, STRIDE);
    let right1 = subgroupMatrixLoad<Right>(&tile, 16u * STRIDE + 16u, true, STRIDE);
    sums0 = subgroupMatrixMultiplyAccumulate(upper1, left1, sums0);
    sums1 = subgroupMatrixMultiplyAccumulate(upper1, right1, sums1);
    sums2 = subgroupMatrixMultiplyAccumulate(lower1, left1, sums2);
    sums3 = subgroupMatrixMultiplyAccumulate(lower1, right1, sums3);
    let left2 = subgroupMatrixLoad<Right>(&tile, 32u, true, STRIDE);
    let right2 = subgroupMatrixLoad<Right>(&tile, 16u * STRIDE + 32u, true, STRIDE);
    sums0 = subgroupMatrixMultiplyAccumulate(upper2, left2, sums0);
    sums1 = subgroupMatrixMultiplyAccumulate(upper2, right2, sums1);
    sums2 = subgroupMatrixMultiplyAccumulate(lower2, left2, sums2);
    sums3 = subgroupMatrixMultiplyAccumulate(lower2, right2, sums3);
    let left3 = subgroupMatrixLoad<Right>(&tile, 48u, true, STRIDE);
    let right3 = subgroupMatrixLoad<Right>(&tile, 16u * STRIDE + 48u, true, STRIDE);
    sums0 = subgroupMatrixMultiplyAccumulate(upper3, left3, sums0);
    sums1 = subgroupMatrixMultiplyAccumulate(upper3, right3, sums1);
    sums2 = subgroupMatrixMultiplyAccumulate(lower3, left3, sums2);
    sums3 = subgroupMatrixMultiplyAccumulate(lower3, right3, sums3);
    upper0 = next_upper0;
    lower0 = next_lower0;
    upper1 = next_upper1;
    lower1 = next_lower1;
    upper2 = next_upper2;
    lower2 = next_lower2;
    upper3 = next_upper3;
    lower3 = next_lower3;
  }
  put_pair(thread, subgroup, g, first, sums0, sums1);
  put_pair(thread, subgroup, g, first + 16u, sums2, sums3);
}
