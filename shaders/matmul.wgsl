// matmul.wgsl: Y = X W^T for the rows of a prefill chunk; W is dequantised once per tile.
//   Reference: tests/ops/test_matmul.py
//
//   binding  name    type        shape             access
//   0        x       InputWord   [T, K] f32        read
//   1        weight  WeightWord  [>= N, K]         read         see graph/matrix.py
//   2        scales  u32         [>= N, K/GROUP]   read         pairs; dummy for floats
//   3        bias    f32         [BIAS_OFFSET + N] read         dummy without BIAS
//   4        step    Step        -                 read         step.rows of the T rows are valid; others stay as they are
//   5        y       f32         [T, Y_COLS]       read_write
//
// Dispatch (ceil(outputs / tile outputs), ceil(T / TILE_T), 1), TILE_T = 8 RT: a workgroup makes TILE_T rows of TILE_N
// products, 32 of K at a time. A thread holds RT x 4 of them: rows tt + 8 i, columns tn + j TILE_N/4. With SLICES > 1
// that many threads share each product, each takes every SLICES-th vec4 along K (few tiles, many threads: small T or N).
// GATED: half of a tile's columns are gates, the other half their ups (N/2 rows further on in W).
// Libraries before it: step, chunk, (scales,) weight_<format> or weight_<format>_any + chunk_any, weight_chunk, rows_vec4 or
// rows_any, tile_f32 or tile_f16, gate, matmul_out.

override K: u32;
override RT: u32 = 8u;        // 1, 2, 4, 8
override TILE_N: u32 = 64u;   // 32 or 64
override SLICES: u32 = 1u;    // 1, 2, 4; 1 with tile_f16 (the tiles serve as scratch). 2 TILE_N SLICES <= 256
override WG: u32 = 128u;      // 2 * TILE_N * SLICES
override ROW_BASE: u32 = 0u;  // the N rows begin at this row of the matrix

@group(0) @binding(0) var<storage, read> x: array<InputWord>;
@group(0) @binding(1) var<storage, read> weight: array<WeightWord>;
@group(0) @binding(2) var<storage, read> scales: array<u32>;
@group(0) @binding(3) var<storage, read> bias: array<f32>;
@group(0) @binding(4) var<storage, read> step: Step;
@group(0) @binding(5) var<storage, read_write> y: array<f32>;

// A row takes 8 vec4; the vec4 k4 of row r stands at r * 8 + (k4 ^ (r & 7)), so that eight neighbouring rows read at the
// same k4 meet eight different banks. All rows of a thread are equal modulo 8.
const W_TILE = 512u;  // where W's tile begins
var<workgroup> tile: array<TileVec, 1024>;

struct Quad { v0: vec4<f32>, v1: vec4<f32>, v2: vec4<f32>, v3: vec4<f32> }  // W at 4 k's for 4 columns, [k][column]

fn put_chunk(row: u32, chunk: Chunk) {
  let at = W_TILE + row * 8u;
  let s = row & 7u;
  tile[at + s] = to_tile(chunk.v0);
  tile[at + (1u ^ s)] = to_tile(chunk.v1);
  tile[at + (2u ^ s)] = to_tile(chunk.v2);
  tile[at + (3u ^ s)] = to_tile(chunk.v3);
  tile[at + (4u ^ s)] = to_tile(chunk.v4);
  tile[at + (5u ^ s)] = to_tile(chunk.v5);
  tile[at + (6u ^ s)] = to_tile(chunk.v6);
  tile[at + (7u ^ s)] = to_tile(chunk.v7);
}

fn madd(acc: vec4<f32>, at: u32, w: Quad) -> vec4<f32> {
  let a = from_tile(tile[at]);
  return acc + a.x * w.v0 + a.y * w.v1 + a.z * w.v2 + a.w * w.v3;
}

// Row of W behind column c of workgroup g's tile.
fn weight_row(g: u32, c: u32) -> u32 {
  if (EPILOGUE == GATED) {
    let half = TILE_N / 2u;
    if (c >= half) { return ROW_BASE + N / 2u + min(g * half + c - half, N / 2u - 1u); }
    return ROW_BASE + min(g * half + c, N / 2u - 1u);
  }
  return ROW_BASE + min(g * TILE_N + c, N - 1u);
}

// The four products of a row; g: workgroup along N, tn: the thread's first column.
fn put_row(row: u32, g: u32, tn: u32, acc: vec4<f32>) {
  if (row >= step.rows) { return; }
  let apart = TILE_N / 4u;
  if (EPILOGUE == GATED) {
    let col = g * (TILE_N / 2u) + tn;
    put_gated(row, col, acc.x, acc.z);
    put_gated(row, col + apart, acc.y, acc.w);
  } else {
    let col = g * TILE_N + tn;
    put(row, col, acc.x);
    put(row, col + apart, acc.y);
    put(row, col + 2u * apart, acc.z);
    put(row, col + 3u * apart, acc.w);
  }
}

@compute @workgroup_size(WG)
fn main(@builtin(local_invocation_index) thread: u32, @builtin(workgroup_id) workgroup: vec3<u32>) {
  let first = workgroup.y * (8u * RT);
  if (first >= step.rows) {
    return;  // uniform: a whole workgroup behind the last valid row
  }
  let apart = TILE_N / 4u;
  let tn = thread % apart;
  let tt = (thread / apart) % 8u;
  let slice = thread / (2u * TILE_N);
  let x_at = tt * 8u;
  let w_at = W_TILE + tn * 8u;
  var acc0 = vec4<f32>();
  var acc1 = vec4<f32>();
  var acc2 = vec4<f32>();
  var acc3 = vec4<f32>();
  var acc4 = vec4<f32>();
  var acc5 = vec4<f32>();
  var acc6 = vec4<f32>();
  var acc7 = vec4<f32>();

  let chunks = (K + 31u) / 32u;
  for (var c = 0u; c < chunks; c++) {
    for (var i = thread; i < TILE_N; i += WG) {
      put_chunk(i, weight_chunk(weight_row(workgroup.x, i), c));
    }
    for (var i = thread; i < 64u * RT; i += WG) {
      let row = i / 8u;
      let k4 = i % 8u;
      tile[row * 8u + (k4 ^ (row & 7u))] = to_tile(x_vec4(min(first + row, step.rows - 1u), c * 8u + k4));
    }
    workgroupBarrier();
    for (var k4 = slice; k4 < 8u; k4 += SLICES) {
      let wk = w_at + (k4 ^ (tn & 7u));
      let a = from_tile(tile[wk]);
      let b = from_tile(tile[wk + apart * 8u]);
      let d = from_tile(tile[wk + apart * 16u]);
      let e = from_tile(tile[wk + apart * 24u]);
      let w = Quad(vec4<f32>(a.x, b.x, d.x, e.x), vec4<f32>(a.y, b.y, d.y, e.y),
                   vec4<f32>(a.z, b.z, d.z, e.z), vec4<f32>(a.w, b.w, d.w, e.w));
      let xk = x_at + (k4 ^ tt);
      acc0 = madd(acc0, xk, w);
      if (RT > 1u) { acc1 = madd(acc1, xk + 64u, w); }
      if (RT > 2u) {
        acc2 = madd(acc2, xk + 128u, w);
        acc3 = madd(acc3, xk + 192u, w);
      }
      if (RT > 4u) {
        acc4 = madd(acc4, xk + 256u, w);
        acc5 = madd(acc5, xk + 320u, w);
        acc6 = madd(acc6, xk + 384u, w);
        acc7 = madd(acc7, xk + 448u, w);
      }
    }
    workgroupBarrier();
  }

  // Slices 1.. hand their sums to slice 0, one slice after the other, through the tiles' memory.
  let home = thread % (2u * TILE_N);
  for (var s = 1u; s < SLICES; s++) {
    if (slice == s) {
      let stride = 2u * TILE_N;
      tile[home] = to_tile(acc0);
      if (RT > 1u) { tile[home + stride] = to_tile(acc1); }
      if (RT > 2u) {
        tile[home + 2u * stride] = to_tile(acc2);
        tile[home + 3u * stride] = to_tile(acc3);
      }
      if (RT > 4u) {
        tile[home + 4u * stride] = to_tile(acc4);
        tile[home + 5u * stride] = to_tile(acc5);
        tile[home + 6u * stride] = to_tile(acc6);
        tile[home + 7u * stride] = to_tile(acc7);
      }
    }
    workgroupBarrier();
    if (slice == 0u) {
      let stride = 2u * TILE_N;
      acc0 += from_tile(tile[home]);
      if (RT > 1u) { acc1 += from_tile(tile[home + stride]); }
      if (RT > 2u) {
        acc2 += from_tile(tile[home + 2u * stride]);
        acc3 += from_tile(tile[home + 3u * stride]);
      }
      if (RT > 4u) {
        acc4 += from_tile(tile[home + 4u * stride]);
        acc5 += from_tile(tile[home + 5u * stride]);
        acc6 += from_tile(tile[home + 6u * stride]);
        acc7 += from_tile(tile[home + 7u * stride]);
      }
    }
    workgroupBarrier();
  }
  if (slice > 0u) {
    return;
  }
  let row = first + tt;
  let g = workgroup.x;
  put_row(row, g, tn, acc0);
  if (RT > 1u) { put_row(row + 8u, g, tn, acc1); }
  if (RT > 2u) {
    put_row(row + 16u, g, tn, acc2);
    put_row(row + 24u, g, tn, acc3);
  }
  if (RT > 4u) {
    put_row(row + 32u, g, tn, acc4);
    put_row(row + 40u, g, tn, acc5);
    put_row(row + 48u, g, tn, acc6);
    put_row(row + 56u, g, tn, acc7);
  }
}
