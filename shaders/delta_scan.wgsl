// delta_scan.wgsl: the recurrence of a gated DeltaNet: whole chunks of 64 rows at once, other rows one after the other:
//   S <- alpha S; d = beta (v - S^T k); S <- S + k d^T; o = S^T q.   Yang et al. 2024, arXiv:2412.06464.
// For a chunk, with W, U and g of delta_chunk.wgsl, and S the state before it:
//   D = U - W S;   o_i = exp(g_i) S^T q_i, to which delta_out.wgsl adds P D;
//   S <- exp(g_63) S + sum_i exp(g_63 - g_i) k_i d_i^T.
// Reference: tests/ops/test_delta.py
//
//   binding  name     type       shape                       access
//   0        mixed    vec4<f32>  [T, (2 HK DK + HV DV) / 4]  read_write   q|k|v; of whole chunks D replaces U
//   1        gates    vec2<f32>  [T, HV]                     read         (log alpha, beta), of whole chunks (g, beta)
//   2        scratch  vec4<f32>  [T, PITCH / 4]              read         of each head W [DK], then what is not read here
//   3        step     Step       -                           read
//   4        state    vec4<f32>  [HV, DV, DK / 4]            read_write   S by columns; unread at position 0
//   5        y        f32        [T, HV DV]                  write        o; rows behind step.rows are left
//
// Dispatch (ceil(DV / 16), HV, 1). Columns of S need nothing of each other: a workgroup has 16 of them.
// Row after row, 8 threads share a column, which they hold in registers. Both products with S are taken before its
// update, S^T q = alpha (S_old^T q) + (k . q) d, so that a row costs one barrier.
// In a chunk, the products with S are tiles of 4 rows x 4 columns a thread (64 rows of W, 64 of q), the sum of k_i d_i^T
// one of 4 channels x 4 columns, which stays in registers from chunk to chunk. What comes from memory is staged in
// slices, the next of them read ahead. Where that is done (lib/delta_chunks.wgsl), DK and DV <= 128; else <= 256.
// Libraries before it: step, delta_chunks.

override HK: u32;
override HV: u32;
override DK: u32;
override DV: u32;
override PITCH: u32;
override QUADS: u32;  // of a column for each of its 8 threads: ceil(DK / 32)

@group(0) @binding(0) var<storage, read_write> mixed: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> gates: array<vec2<f32>>;
@group(0) @binding(2) var<storage, read> scratch: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> step: Step;
@group(0) @binding(4) var<storage, read_write> state: array<vec4<f32>>;
@group(0) @binding(5) var<storage, read_write> y: array<f32>;

const LANES = 8u;      // threads of a column
const MOST = 8u;       // the most QUADS
const SCANNING = 128u; // threads of the workgroup
const STAGE = 512u;    // first S [128, 16 columns] or D [64, 16], then a slice: 16 channels of W and q, or 16 rows of k
const TILES = 32u;     // rows or channels of a workgroup, 4 a thread
var<workgroup> pool: array<vec4<f32>, 1024>;

fn width() -> u32 { return (2u * HK * DK + HV * DV) / 4u; }

// Rows first .. end - 1 of column `column` of a head. Called by all threads, in uniform control flow.
fn scan_rows(s: ptr<function, array<vec4<f32>, MOST>>, first: u32, end: u32, head: u32, column: u32, thread: u32) {
  if (first >= end) {
    return;
  }
  let quads = DK / 4u;
  let key_head = head / (HV / HK);
  let lane = thread % LANES;
  let mine = column < DV;
  let values = 2u * HK * DK + head * DV + min(column, DV - 1u);
  var k: array<vec4<f32>, MOST>;
  var next_k: array<vec4<f32>, MOST>;  // the next token's, read before the barrier so that they come meanwhile
  var next_q: array<vec4<f32>, MOST>;
  for (var i = 0u; i < QUADS; i++) {
    let quad = lane + LANES * i;
    k[i] = vec4<f32>(0.0);
    next_k[i] = vec4<f32>(0.0);
    next_q[i] = vec4<f32>(0.0);
    if (quad < quads) {
      next_q[i] = mixed[first * width() + key_head * quads + quad];
      next_k[i] = mixed[first * width() + (HK + key_head) * quads + quad];
    }
  }
  var next_v = mixed[first * width() + values / 4u][values % 4u];
  var next_gate = gates[first * HV + head];
  for (var t = first; t < end; t++) {
    var sums = vec4<f32>(0.0);
    let next = min(t + 1u, end - 1u);
    for (var i = 0u; i < QUADS; i++) {
      let quad = lane + LANES * i;
      if (quad < quads) {
        let q = next_q[i];
        k[i] = next_k[i];
        next_q[i] = mixed[next * width() + key_head * quads + quad];
        next_k[i] = mixed[next * width() + (HK + key_head) * quads + quad];
        sums += vec4<f32>(dot((*s)[i], k[i]), dot((*s)[i], q), dot(k[i], q), 0.0);
      }
    }
    let v = next_v;
    let alpha = exp(next_gate.x);
    let beta = next_gate.y;
    next_v = mixed[next * width() + values / 4u][values % 4u];
    next_gate = gates[next * HV + head];
    let turn = (t % 2u) * SCANNING;  // a thread may write the next token's sums while others still read these
    pool[turn + thread] = sums;
    workgroupBarrier();
    var total = vec4<f32>(0.0);
    for (var i = 0u; i < LANES; i++) { total += pool[turn + thread - lane + i]; }
    let d = beta * (v - alpha * total.x);
    for (var i = 0u; i < QUADS; i++) { (*s)[i] = alpha * (*s)[i] + d * k[i]; }
    if (mine && lane == 0u) { y[(t * HV + head) * DV + column] = alpha * total.y + d * total.z; }
  }
}

// Where the slice has channel c of rows 4 i .. of W (i < 16) and q. Shuffled against bank conflicts.
fn staged(c: u32, i: u32) -> u32 { return STAGE + c * TILES + (i ^ (2u * (c / 4u))); }

// Four channels (quad `quad`) of rows 4 i .. of W and q, a column a row.
fn four_rows(start: u32, i: u32, quad: u32, head: u32) -> mat4x4<f32> {
  var rows = mat4x4<f32>();
  if (quad >= DK / 4u) { return rows; }
  if (i < 16u) {
    let at = (start + 4u * i) * (PITCH / 4u) + head * (DK + CHUNK) / 4u + quad;
    let line = PITCH / 4u;
    rows = mat4x4<f32>(scratch[at], scratch[at + line], scratch[at + 2u * line], scratch[at + 3u * line]);
  } else {
    let at = (start + 4u * i - CHUNK) * width() + (head / (HV / HK)) * (DK / 4u) + quad;
    rows = mat4x4<f32>(mixed[at], mixed[at + width()], mixed[at + 2u * width()], mixed[at + 3u * width()]);
  }
  return rows;
}

// Quad `quad` of rows row, row + 4, + 8, + 12 of k.
fn key_quads(row: u32, quad: u32, head: u32) -> mat4x4<f32> {
  var found = mat4x4<f32>();
  if (quad < DK / 4u) {
    let at = row * width() + (HK + head / (HV / HK)) * (DK / 4u) + quad;
    found = mat4x4<f32>(mixed[at], mixed[at + 4u * width()], mixed[at + 8u * width()], mixed[at + 12u * width()]);
  }
  return found;
}

fn keep_output(row: u32, head: u32, column: u32, o: vec4<f32>) {
  let at = (row * HV + head) * DV + column;
  y[at] = o.x;
  y[at + 1u] = o.y;
  y[at + 2u] = o.z;
  y[at + 3u] = o.w;
}

@compute @workgroup_size(128)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
  let quads = DK / 4u;
  let head = group.y;
  let lane = thread % LANES;
  let side = thread / LANES;
  let column = group.x * (SCANNING / LANES) + side;
  let mine = column < DV;
  let home = (head * DV + min(column, DV - 1u)) * quads;
  var s: array<vec4<f32>, MOST>;
  for (var i = 0u; i < QUADS; i++) {
    let quad = lane + LANES * i;
    if (mine && quad < quads && step.pos > 0u) { s[i] = state[home + quad]; }
  }
  let chunks = whole_chunks();
  let first = first_chunk();
  // Rows before the chunks, the chunks, rows behind them. The first two may be missing.
  for (var turn = 0u; turn < 2u; turn++) {
    var from_row = 0u;
    var end = min(first, step.rows);
    if (turn == 1u) {
      from_row = min(first, step.rows) + chunks * CHUNK;
      end = step.rows;
    }
    scan_rows(&s, from_row, end, head, column, thread);
    if (turn == 1u || chunks == 0u) {
      continue;
    }
    // From 8 threads a column to tiles: channels 4 across .. of columns 4 down .., a vector over the columns for each.
    let across = thread % TILES;
    let down = thread / TILES;
    workgroupBarrier();
    for (var i = 0u; i < 4u; i++) { pool[side * TILES + lane + LANES * i] = s[i]; }  // zeros behind DK
    workgroupBarrier();
    var tile = transpose(mat4x4<f32>(
      pool[4u * down * TILES + across], pool[(4u * down + 1u) * TILES + across],
      pool[(4u * down + 2u) * TILES + across], pool[(4u * down + 3u) * TILES + across]));
    var s0 = tile[0];
    var s1 = tile[1];
    var s2 = tile[2];
    var s3 = tile[3];
    let own = group.x * 16u + 4u * down;      // the first of this thread's columns
    let values = (2u * HK * DK + head * DV + own) / 4u;
    let is_row = across < 16u && own < DV;    // of D; the others have rows of q
    let slices = (DK + 15u) / 16u;
    let slice_quad = thread % 4u;
    let slice_rows = thread / 4u;
    var rows = four_rows(first, slice_rows, slice_quad, head);
    for (var n = 0u; n < chunks; n++) {
      let start = first + n * CHUNK;
      let row = start + 4u * (across % 16u);
      var u = mat4x4<f32>();
      if (is_row) {
        let at = row * width() + values;
        u = mat4x4<f32>(mixed[at], mixed[at + width()], mixed[at + 2u * width()], mixed[at + 3u * width()]);
      }
      let g = vec4<f32>(
        gates[row * HV + head].x, gates[(row + 1u) * HV + head].x,
        gates[(row + 2u) * HV + head].x, gates[(row + 3u) * HV + head].x);
      let whole = gates[(start + CHUNK - 1u) * HV + head].x;
      workgroupBarrier();
      pool[(4u * across) * 4u + down] = s0;
      pool[(4u * across + 1u) * 4u + down] = s1;
      pool[(4u * across + 2u) * 4u + down] = s2;
      pool[(4u * across + 3u) * 4u + down] = s3;

      var r0 = vec4<f32>(0.0);
      var r1 = vec4<f32>(0.0);
      var r2 = vec4<f32>(0.0);
      var r3 = vec4<f32>(0.0);
      var keys = mat4x4<f32>();
      for (var slice = 0u; slice < slices; slice++) {
        workgroupBarrier();
        let by_channel = transpose(rows);
        pool[staged(4u * slice_quad, slice_rows)] = by_channel[0];
        pool[staged(4u * slice_quad + 1u, slice_rows)] = by_channel[1];
        pool[staged(4u * slice_quad + 2u, slice_rows)] = by_channel[2];
        pool[staged(4u * slice_quad + 3u, slice_rows)] = by_channel[3];
        workgroupBarrier();
        if (slice + 1u < slices) {
          rows = four_rows(start, slice_rows, 4u * (slice + 1u) + slice_quad, head);
        } else {
          keys = key_quads(start + down, across, head);
        }
        for (var quad = 0u; quad < 4u; quad++) {
          let at = staged(4u * quad, across);
          let x0 = pool[at];
          let x1 = pool[at + TILES];
          let x2 = pool[at + 2u * TILES];
          let x3 = pool[at + 3u * TILES];
          let from_s = (16u * slice + 4u * quad) * 4u + down;
          let c0 = pool[from_s];
          let c1 = pool[from_s + 4u];
          let c2 = pool[from_s + 8u];
          let c3 = pool[from_s + 12u];
          r0 += x0.x * c0 + x1.x * c1 + x2.x * c2 + x3.x * c3;
          r1 += x0.y * c0 + x1.y * c1 + x2.y * c2 + x3.y * c3;
          r2 += x0.z * c0 + x1.z * c1 + x2.z * c2 + x3.z * c3;
          r3 += x0.w * c0 + x1.w * c1 + x2.w * c2 + x3.w * c3;
        }
      }
      workgroupBarrier();
      if (across < 16u) {
        let d = mat4x4<f32>(u[0] - r0, u[1] - r1, u[2] - r2, u[3] - r3);
        pool[(4u * across) * 4u + down] = d[0] * decayed(whole - g.x);
        pool[(4u * across + 1u) * 4u + down] = d[1] * decayed(whole - g.y);
        pool[(4u * across + 2u) * 4u + down] = d[2] * decayed(whole - g.z);
        pool[(4u * across + 3u) * 4u + down] = d[3] * decayed(whole - g.w);
        if (is_row) {
          let at = row * width() + values;
          mixed[at] = d[0];
          mixed[at + width()] = d[1];
          mixed[at + 2u * width()] = d[2];
          mixed[at + 3u * width()] = d[3];
        }
      } else if (own < DV) {
        keep_output(row, head, own, r0 * decayed(g.x));
        keep_output(row + 1u, head, own, r1 * decayed(g.y));
        keep_output(row + 2u, head, own, r2 * decayed(g.z));
        keep_output(row + 3u, head, own, r3 * decayed(g.w));
      }
      let kept = decayed(whole);
      s0 *= kept;
      s1 *= kept;
      s2 *= kept;
      s3 *= kept;
      for (var slice = 0u; slice < CHUNK; slice += 16u) {
        let at = STAGE + down * TILES + across;
        pool[at] = keys[0];
        pool[at + 4u * TILES] = keys[1];
        pool[at + 8u * TILES] = keys[2];
        pool[at + 12u * TILES] = keys[3];
        workgroupBarrier();
        if (slice + 16u < CHUNK) {
          keys = key_quads(start + slice + 16u + down, across, head);
        } else if (n + 1u < chunks) {
          rows = four_rows(start + CHUNK, slice_rows, slice_quad, head);
        }
        for (var i = 0u; i < 16u; i += 4u) {
          let at = STAGE + i * TILES + across;
          let k0 = pool[at];
          let k1 = pool[at + TILES];
          let k2 = pool[at + 2u * TILES];
          let k3 = pool[at + 3u * TILES];
          let from_d = (slice + i) * 4u + down;
          let d0 = pool[from_d];
          let d1 = pool[from_d + 4u];
          let d2 = pool[from_d + 8u];
          let d3 = pool[from_d + 12u];
          s0 += k0.x * d0 + k1.x * d1 + k2.x * d2 + k3.x * d3;
          s1 += k0.y * d0 + k1.y * d1 + k2.y * d2 + k3.y * d3;
          s2 += k0.z * d0 + k1.z * d1 + k2.z * d2 + k3.z * d3;
          s3 += k0.w * d0 + k1.w * d1 + k2.w * d2 + k3.w * d3;
        }
        workgroupBarrier();
      }
    }
    tile = transpose(mat4x4<f32>(s0, s1, s2, s3));
    pool[4u * down * TILES + across] = tile[0];
    pool[(4u * down + 1u) * TILES + across] = tile[1];
    pool[(4u * down + 2u) * TILES + across] = tile[2];
    pool[(4u * down + 3u) * TILES + across] = tile[3];
    workgroupBarrier();
    for (var i = 0u; i < QUADS; i++) { s[i] = pool[side * TILES + lane + LANES * i]; }
    workgroupBarrier();
  }

  if (!mine || step.halt != 0u) {
    return;
  }
  for (var i = 0u; i < QUADS; i++) {
    let quad = lane + LANES * i;
    if (quad < quads) { state[home + quad] = s[i]; }
  }
}
