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
// What a thread loads from memory waits in registers during the products of the previous 32 (but see UNROLL).
// Libraries before it: step, chunk, (scales,) weight_<format> or weight_<format>_any + chunk_any, weight_octet, rows_vec4 or
// rows_any, tile_f32 or tile_f16, gate, matmul_out, matmul_tile.

override K: u32;
override RT: u32 = 8u;        // 1, 2, 4, 8
override TILE_N: u32 = 64u;   // 32 or 64
override SLICES: u32 = 1u;    // 1, 2, 4; 1 with tile_f16 (the tiles serve as scratch)
override WG: u32 = 128u;      // 2 * TILE_N * SLICES, from 32 RT to 256
override UNROLL: u32 = 4u;    // vec4 along K in a turn of the inner loop: 4, 2 with 4 slices. 1 on software adapters, which
                              // compile each access for long: loads then do not run ahead of the products either
override ROW_BASE: u32 = 0u;  // the N rows begin at this row of the matrix

@group(0) @binding(0) var<storage, read> x: array<InputWord>;
@group(0) @binding(1) var<storage, read> weight: array<WeightWord>;
@group(0) @binding(2) var<storage, read> scales: array<u32>;
@group(0) @binding(3) var<storage, read> bias: array<f32>;
@group(0) @binding(4) var<storage, read> step: Step;
@group(0) @binding(5) var<storage, read_write> y: array<f32>;

// The vec4 k4 of row r stands at k4 * PITCH + r: eight threads that store or load one k4 of eight neighbouring rows meet all
// banks once. Where tiles are read, indices are written out in `main` as sums of constants and of quotients and remainders
// of the thread's number: compilers then see that they are inside, and do not check them.
const PITCH = 64u;
const W_TILE = 8u * PITCH;  // where W's tile begins
var<workgroup> tile: array<TileVec, 16u * PITCH>;

struct Quad { v0: vec4<f32>, v1: vec4<f32>, v2: vec4<f32>, v3: vec4<f32> }  // W at 4 k's for 4 columns, [k][column]

fn columns(a: vec4<f32>, b: vec4<f32>, c: vec4<f32>, d: vec4<f32>) -> Quad {
  return Quad(vec4<f32>(a.x, b.x, c.x, d.x), vec4<f32>(a.y, b.y, c.y, d.y),
              vec4<f32>(a.z, b.z, c.z, d.z), vec4<f32>(a.w, b.w, c.w, d.w));
}

fn madd(acc: vec4<f32>, a: vec4<f32>, w: Quad) -> vec4<f32> {
  return acc + a.x * w.v0 + a.y * w.v1 + a.z * w.v2 + a.w * w.v3;
}

// Four sums of a thread through the tiles' memory, from a thread of another slice to the one in slice 0.
struct Four { a: vec4<f32>, b: vec4<f32>, c: vec4<f32>, d: vec4<f32> }

fn hand_over(home: u32, v: Four) {
  tile[home] = to_tile(v.a);
  tile[home + 2u * TILE_N] = to_tile(v.b);
  tile[home + 4u * TILE_N] = to_tile(v.c);
  tile[home + 6u * TILE_N] = to_tile(v.d);
}

fn handed_over(home: u32) -> Four {
  return Four(from_tile(tile[home]), from_tile(tile[home + 2u * TILE_N]), from_tile(tile[home + 4u * TILE_N]),
              from_tile(tile[home + 6u * TILE_N]));
}

// What a thread loads of 32 along K: of X a vec4, or two WG / 8 rows apart; of W an octet, or two WG / 4 rows apart.
struct Loads { x: vec4<f32>, x_2: vec4<f32>, w: PackedOctet, w_2: PackedOctet }

// From where: rows of X and of W, and the vec4 and the octet of the 32.
struct Places { x_row: u32, x_row_2: u32, x_k4: u32, w_row: u32, w_row_2: u32, w_octet: u32 }

fn load_step(at: Places, c: u32) -> Loads {
  var loads: Loads;
  loads.x = x_vec4(at.x_row, 8u * c + at.x_k4);
  if (64u * RT > WG) { loads.x_2 = x_vec4(at.x_row_2, 8u * c + at.x_k4); }
  loads.w = octet_load(at.w_row, 4u * c + at.w_octet);
  if (4u * TILE_N > WG) { loads.w_2 = octet_load(at.w_row_2, 4u * c + at.w_octet); }
  return loads;
}

@compute @workgroup_size(WG)
fn main(@builtin(local_invocation_index) thread: u32, @builtin(workgroup_id) workgroup: vec3<u32>) {
  let first = workgroup.y * (8u * RT);
  if (first >= step.rows) {
    return;  // uniform: a whole workgroup behind the last valid row
  }
  let apart = TILE_N / 4u;
  let tn = thread % apart;
  let tt = thread / apart % 8u;
  let slice = thread / (2u * TILE_N);

  let x_in = thread / 64u * 8u + thread % 8u;  // row of the tile
  let x_k4 = thread / 8u % 8u;
  let x_to = x_k4 * PITCH + x_in;
  let w_in = thread / 32u * 8u + thread % 8u;
  let w_octet = thread / 8u % 4u;
  let w_to = W_TILE + 2u * w_octet * PITCH + w_in;
  let source = Places(min(first + x_in, step.rows - 1u), min(first + x_in + WG / 8u, step.rows - 1u), x_k4,
                      weight_row(workgroup.x, min(w_in, TILE_N - 1u)),
                      weight_row(workgroup.x, min(w_in + WG / 4u, TILE_N - 1u)), w_octet);
  var loads: Loads;
  if (UNROLL > 1u) { loads = load_step(source, 0u); }

  var acc0 = vec4<f32>();
  var acc1 = vec4<f32>();
  var acc2 = vec4<f32>();
  var acc3 = vec4<f32>();
  var acc4 = vec4<f32>();
  var acc5 = vec4<f32>();
  var acc6 = vec4<f32>();
  var acc7 = vec4<f32>();
  let steps = (K + 31u) / 32u;
  for (var c = 0u; c < steps; c++) {
    if (UNROLL == 1u) { loads = load_step(source, c); }
    workgroupBarrier();
    if (x_in < 8u * RT) { tile[x_to] = to_tile(loads.x); }
    if (64u * RT > WG) { tile[x_to + WG / 8u] = to_tile(loads.x_2); }
    if (w_in < TILE_N) {
      let values = octet_values(loads.w);
      tile[w_to] = to_tile(values.lo);
      tile[w_to + PITCH] = to_tile(values.hi);
    }
    if (4u * TILE_N > WG) {
      let values = octet_values(loads.w_2);
      tile[w_to + WG / 4u] = to_tile(values.lo);
      tile[w_to + PITCH + WG / 4u] = to_tile(values.hi);
    }
    workgroupBarrier();
    if (UNROLL > 1u) { loads = load_step(source, min(c + 1u, steps - 1u)); }
    // Of the eight vec4 along K a slice takes up to four at a time, not in a loop: compilers then load from the tiles for one
    // during the products of another.
    for (var i = 0u; i < 8u / (UNROLL * SLICES); i++) {
      let k = UNROLL * SLICES * i + slice;
      {
        let k4 = k;
        let wk = W_TILE + k4 * PITCH + tn;
        let w = columns(from_tile(tile[wk]), from_tile(tile[wk + apart]), from_tile(tile[wk + 2u * apart]),
                        from_tile(tile[wk + 3u * apart]));
        let xk = k4 * PITCH + tt;
        acc0 = madd(acc0, from_tile(tile[xk]), w);
        if (RT > 1u) { acc1 = madd(acc1, from_tile(tile[xk + 8u]), w); }
        if (RT > 2u) {
          acc2 = madd(acc2, from_tile(tile[xk + 16u]), w);
          acc3 = madd(acc3, from_tile(tile[xk + 24u]), w);
        }
        if (RT > 4u) {
          acc4 = madd(acc4, from_tile(tile[xk + 32u]), w);
          acc5 = madd(acc5, from_tile(tile[xk + 40u]), w);
          acc6 = madd(acc6, from_tile(tile[xk + 48u]), w);
          acc7 = madd(acc7, from_tile(tile[xk + 56u]), w);
        }
      }
      if (UNROLL > 1u) {
        let k4 = k + SLICES;
        let wk = W_TILE + k4 * PITCH + tn;
        let w = columns(from_tile(tile[wk]), from_tile(tile[wk + apart]), from_tile(tile[wk + 2u * apart]),
                        from_tile(tile[wk + 3u * apart]));
        let xk = k4 * PITCH + tt;
        acc0 = madd(acc0, from_tile(tile[xk]), w);
        if (RT > 1u) { acc1 = madd(acc1, from_tile(tile[xk + 8u]), w); }
        if (RT > 2u) {
          acc2 = madd(acc2, from_tile(tile[xk + 16u]), w);
          acc3 = madd(acc3, from_tile(tile[xk + 24u]), w);
        }
        if (RT > 4u) {
          acc4 = madd(acc4, from_tile(tile[xk + 32u]), w);
          acc5 = madd(acc5, from_tile(tile[xk + 40u]), w);
          acc6 = madd(acc6, from_tile(tile[xk + 48u]), w);
          acc7 = madd(acc7, from_tile(tile[xk + 56u]), w);
        }
      }
      if (UNROLL > 2u) {
        {
          let k4 = k + 2u * SLICES;
          let wk = W_TILE + k4 * PITCH + tn;
          let w = columns(from_tile(tile[wk]), from_tile(tile[wk + apart]), from_tile(tile[wk + 2u * apart]),
                          from_tile(tile[wk + 3u * apart]));
          let xk = k4 * PITCH + tt;
          acc0 = madd(acc0, from_tile(tile[xk]), w);
          if (RT > 1u) { acc1 = madd(acc1, from_tile(tile[xk + 8u]), w); }
          if (RT > 2u) {
            acc2 = madd(acc2, from_tile(tile[xk + 16u]), w);
            acc3 = madd(acc3, from_tile(tile[xk + 24u]), w);
          }
          if (RT > 4u) {
            acc4 = madd(acc4, from_tile(tile[xk + 32u]), w);
            acc5 = madd(acc5, from_tile(tile[xk + 40u]), w);
            acc6 = madd(acc6, from_tile(tile[xk + 48u]), w);
            acc7 = madd(acc7, from_tile(tile[xk + 56u]), w);
          }
        }
        {
          let k4 = k + 3u * SLICES;
          let wk = W_TILE + k4 * PITCH + tn;
          let w = columns(from_tile(tile[wk]), from_tile(tile[wk + apart]), from_tile(tile[wk + 2u * apart]),
                          from_tile(tile[wk + 3u * apart]));
          let xk = k4 * PITCH + tt;
          acc0 = madd(acc0, from_tile(tile[xk]), w);
          if (RT > 1u) { acc1 = madd(acc1, from_tile(tile[xk + 8u]), w); }
          if (RT > 2u) {
            acc2 = madd(acc2, from_tile(tile[xk + 16u]), w);
            acc3 = madd(acc3, from_tile(tile[xk + 24u]), w);
          }
          if (RT > 4u) {
            acc4 = madd(acc4, from_tile(tile[xk + 32u]), w);
            acc5 = madd(acc5, from_tile(tile[xk + 40u]), w);
            acc6 = madd(acc6, from_tile(tile[xk + 48u]), w);
            acc7 = madd(acc7, from_tile(tile[xk + 56u]), w);
          }
        }
      }
    }
  }

  // Slices 1.. hand their sums to slice 0, one slice after the other.
  let home = thread % (2u * TILE_N);
  for (var s = 1u; s < SLICES; s++) {
    workgroupBarrier();
    if (slice == s) { hand_over(home, Four(acc0, acc1, acc2, acc3)); }
    workgroupBarrier();
    if (slice == 0u) {
      let sums = handed_over(home);
      acc0 += sums.a;
      acc1 += sums.b;
      acc2 += sums.c;
      acc3 += sums.d;
    }
    if (RT > 4u) {
      workgroupBarrier();
      if (slice == s) { hand_over(home, Four(acc4, acc5, acc6, acc7)); }
      workgroupBarrier();
      if (slice == 0u) {
        let sums = handed_over(home);
        acc4 += sums.a;
        acc5 += sums.b;
        acc6 += sums.c;
        acc7 += sums.d;
      }
    }
  }
  if (slice > 0u) {
    return;
  }
  let row = first + tt;
  let g = workgroup.x;
  // The sums move up from row to row, so that the writing stands in the code once.
  for (var i = 0u; i < RT; i++) {
    put_row(row + 8u * i, g, tn, acc0);
    acc0 = acc1;
    acc1 = acc2;
    acc2 = acc3;
    acc3 = acc4;
    acc4 = acc5;
    acc5 = acc6;
    acc6 = acc7;
  }
}
