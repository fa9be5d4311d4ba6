// delta_scan.wgsl: the recurrence of a gated DeltaNet: whole chunks of 64 rows at once, other rows one after the other:
//   S <- alpha S; d = beta (v - S^T k); S <- S + k d^T; o = S^T q.   Yang et al. 2024, arXiv:2412.06464.
// For a chunk, with W, U and g of delta_chunk.wgsl, and S the state before it:
//   D = U - W S;   o_i = S^T exp(g_i) q_i, to which delta_out.wgsl adds P D;
//   S <- exp(g_63) S + sum_i exp(g_63 - g_i) k_i d_i^T.
// Reference: tests/ops/test_delta.py
//
//   binding  name     type       shape                       access
//   0        mixed    vec4<f32>  [T, (2 HK DK + HV DV) / 4]  read_write   q|k|v; of whole chunks D replaces U
//   1        gates    vec2<f32>  [T, HV]                     read         (log alpha, beta), of whole chunks (g, beta)
//   2        scratch  vec4<f32>  [T, PITCH / 4]              read         as delta_chunk.wgsl leaves it: W and exp(g) q
//   3        step     Step       -                           read
//   4        state    vec4<f32>  [HV, DV, DK / 4]            read_write   S by columns; unread at position 0
//   5        y        f32        [T, HV DV]                  write        o; rows from step.rows on are left
//
// Dispatch (ceil(DV / 16), HV, 1). Columns of S are independent of each other: a workgroup has 16 of them.
// Row after row, 16 threads share a column, which they hold in registers. Both products with S are taken before its
// update, S^T q = alpha (S_old^T q) + (k . q) d, so that a row costs one barrier.
// In a chunk a thread has tiles of 4 x 4: rows (of W or q) and columns of the products with S, channels and columns of S
// itself, which stays in registers from chunk to chunk. Each half of the threads has half of the terms of these sums. S
// and D are shared in workgroup memory; what comes from other memory is read 16 vectors ahead. COMPACT reads it where it
// is used, with the same results: software adapters take long to compile each place that reads memory, and gain nothing
// from reading ahead. Where there are chunks (lib/delta_chunks.wgsl), DK and DV <= 128; else <= 256.
// Libraries before it: step, delta_chunks.

override HK: u32;
override HV: u32;
override DK: u32;
override DV: u32;
override PITCH: u32;
override QUADS: u32;  // of a column for each of its 16 threads: ceil(DK / 64)
override COMPACT: bool = false;

@group(0) @binding(0) var<storage, read_write> mixed: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> gates: array<vec2<f32>>;
@group(0) @binding(2) var<storage, read> scratch: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> step: Step;
@group(0) @binding(4) var<storage, read_write> state: array<vec4<f32>>;
@group(0) @binding(5) var<storage, read_write> y: array<f32>;

const LANES = 16u;     // threads of a column
const MOST = 4u;       // the most QUADS
const SCANNING = 256u; // threads of the workgroup
const HALF = 128u;     // of them
const CORRECTIONS = 512u;  // where the pool has D
const HEAD = 80u;      // quads of a head in a row of scratch

// Row after row, parts of sums; in chunks S [128, 16 columns] or a tile of each thread of one half, and D [64, 16 columns].
var<workgroup> pool: array<vec4<f32>, 768>;

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

// Channels c .. c + 3 of rows 4 across .. of W (across < 16) and exp(g) q; 0 from channel `end` on.
fn four_channels(start: u32, c: u32, end: u32, across: u32, head: u32) -> mat4x4<f32> {
  if (c >= end) { return mat4x4<f32>(); }
  let at = (start + c / 2u) * (PITCH / 4u) + head * HEAD + across;
  let below = at + PITCH / 4u;
  return mat4x4<f32>(scratch[at], scratch[at + 32u], scratch[below], scratch[below + 32u]);
}

// Channels 4 quad .. of rows row .. row + 3 of k.
fn four_keys(row: u32, quad: u32, head: u32) -> mat4x4<f32> {
  if (quad >= DK / 4u) { return mat4x4<f32>(); }
  let at = row * width() + (HK + head / (HV / HK)) * (DK / 4u) + quad;
  return mat4x4<f32>(mixed[at], mixed[at + width()], mixed[at + 2u * width()], mixed[at + 3u * width()]);
}

// A tile and the product of x with four rows of columns in the pool.
fn added(tile: mat4x4<f32>, x: mat4x4<f32>, at: u32) -> mat4x4<f32> {
  let c0 = pool[at];
  let c1 = pool[at + 4u];
  let c2 = pool[at + 8u];
  let c3 = pool[at + 12u];
  return mat4x4<f32>(
    tile[0] + x[0].x * c0 + x[1].x * c1 + x[2].x * c2 + x[3].x * c3,
    tile[1] + x[0].y * c0 + x[1].y * c1 + x[2].y * c2 + x[3].y * c3,
    tile[2] + x[0].z * c0 + x[1].z * c1 + x[2].z * c2 + x[3].z * c3,
    tile[3] + x[0].w * c0 + x[1].w * c1 + x[2].w * c2 + x[3].w * c3);
}

// A tile in the pool, its columns `pitch` apart.
fn put(at: u32, pitch: u32, tile: mat4x4<f32>) {
  pool[at] = tile[0];
  pool[at + pitch] = tile[1];
  pool[at + 2u * pitch] = tile[2];
  pool[at + 3u * pitch] = tile[3];
}

// What a thread of the second half has put there.
fn taken(at: u32) -> mat4x4<f32> {
  return mat4x4<f32>(pool[at], pool[at + HALF], pool[at + 2u * HALF], pool[at + 3u * HALF]);
}

fn keep_output(row: u32, head: u32, column: u32, o: vec4<f32>) {
  let at = (row * HV + head) * DV + column;
  y[at] = o.x;
  y[at + 1u] = o.y;
  y[at + 2u] = o.z;
  y[at + 3u] = o.w;
}

@compute @workgroup_size(256)
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
    // From 16 threads a column to tiles: channels 4 across .. of columns 4 down .., a vector over the columns for each.
    // The first half of the threads holds S, the second the half of its changes that it computes.
    let half = thread / HALF;
    let across = thread % HALF / 32u * 8u + thread % 8u;
    let down = thread / 8u % 4u;
    workgroupBarrier();
    for (var i = 0u; i < 2u; i++) { pool[side * 32u + lane + LANES * i] = s[i]; }  // zeros behind DK
    workgroupBarrier();
    let corner = down * 128u + across;
    var tile = mat4x4<f32>();
    if (half == 0u) {
      tile = transpose(mat4x4<f32>(pool[corner], pool[corner + 32u], pool[corner + 64u], pool[corner + 96u]));
    }
    workgroupBarrier();
    let own = group.x * 16u + 4u * down;  // the first of this thread's columns
    let values = (2u * HK * DK + head * DV + own) / 4u;
    let kept = half == 0u && own < DV;    // what this thread has is to be written
    let is_d = across < 16u;              // rows of D, else of o
    let from_c = half * 64u;
    let end_c = min(DK, from_c + 64u);
    let from_j = half * 32u;
    var x0 = mat4x4<f32>();
    var x1 = mat4x4<f32>();
    var x2 = mat4x4<f32>();
    var x3 = mat4x4<f32>();
    if (!COMPACT) {
      x0 = four_channels(first, from_c, end_c, across, head);
      x1 = four_channels(first, from_c + 4u, end_c, across, head);
      x2 = four_channels(first, from_c + 8u, end_c, across, head);
      x3 = four_channels(first, from_c + 12u, end_c, across, head);
    }
    for (var n = 0u; n < chunks; n++) {
      let start = first + n * CHUNK;
      let row = start + 4u * (across % 16u);
      var u = mat4x4<f32>();
      if (kept && is_d) {
        let at = row * width() + values;
        u = mat4x4<f32>(mixed[at], mixed[at + width()], mixed[at + 2u * width()], mixed[at + 3u * width()]);
      }
      let g = vec4<f32>(
        gates[row * HV + head].x, gates[(row + 1u) * HV + head].x,
        gates[(row + 2u) * HV + head].x, gates[(row + 3u) * HV + head].x);
      let whole = gates[(start + CHUNK - 1u) * HV + head].x;
      if (half == 0u) { put(16u * across + down, 4u, tile); }
      workgroupBarrier();

      var products = mat4x4<f32>();
      for (var c = from_c; COMPACT && c < end_c; c += 4u) {
        products = added(products, four_channels(start, c, end_c, across, head), 4u * c + down);
      }
      for (var c = from_c; !COMPACT && c < end_c; c += 16u) {
        let at = 4u * c + down;
        products = added(products, x0, at);
        x0 = four_channels(start, c + 16u, end_c, across, head);
        products = added(products, x1, at + 16u);
        x1 = four_channels(start, c + 20u, end_c, across, head);
        products = added(products, x2, at + 32u);
        x2 = four_channels(start, c + 24u, end_c, across, head);
        products = added(products, x3, at + 48u);
        x3 = four_channels(start, c + 28u, end_c, across, head);
      }
      if (!COMPACT) {
        x0 = four_keys(start + from_j, across, head);
        x1 = four_keys(start + from_j + 4u, across, head);
        x2 = four_keys(start + from_j + 8u, across, head);
        x3 = four_keys(start + from_j + 12u, across, head);
      }
      workgroupBarrier();
      if (half == 1u) { put(thread - HALF, HALF, products); }
      workgroupBarrier();
      if (half == 0u) {
        products += taken(thread);
        if (is_d) {
          let d = u - products;
          products = mat4x4<f32>(
            d[0] * decayed(whole - g.x), d[1] * decayed(whole - g.y),
            d[2] * decayed(whole - g.z), d[3] * decayed(whole - g.w));
          put(CORRECTIONS + 16u * across + down, 4u, products);
          if (kept) {
            let place = row * width() + values;
            mixed[place] = d[0];
            mixed[place + width()] = d[1];
            mixed[place + 2u * width()] = d[2];
            mixed[place + 3u * width()] = d[3];
          }
        } else if (kept) {
          keep_output(row, head, own, products[0]);
          keep_output(row + 1u, head, own, products[1]);
          keep_output(row + 2u, head, own, products[2]);
          keep_output(row + 3u, head, own, products[3]);
        }
      }
      workgroupBarrier();
      tile = tile * decayed(whole);
      for (var j = from_j; COMPACT && j < from_j + 32u; j += 4u) {
        tile = added(tile, four_keys(start + j, across, head), CORRECTIONS + 4u * j + down);
      }
      for (var j = from_j; !COMPACT && j < from_j + 32u; j += 16u) {
        let at = CORRECTIONS + 4u * j + down;
        tile = added(tile, x0, at);
        tile = added(tile, x1, at + 16u);
        tile = added(tile, x2, at + 32u);
        tile = added(tile, x3, at + 48u);
        if (j == from_j) {
          x0 = four_keys(start + j + 16u, across, head);
          x1 = four_keys(start + j + 20u, across, head);
          x2 = four_keys(start + j + 24u, across, head);
          x3 = four_keys(start + j + 28u, across, head);
        }
      }
      if (!COMPACT && n + 1u < chunks) {
        x0 = four_channels(start + CHUNK, from_c, end_c, across, head);
        x1 = four_channels(start + CHUNK, from_c + 4u, end_c, across, head);
        x2 = four_channels(start + CHUNK, from_c + 8u, end_c, across, head);
        x3 = four_channels(start + CHUNK, from_c + 12u, end_c, across, head);
      }
      if (half == 1u) {
        put(thread - HALF, HALF, tile);
        tile = mat4x4<f32>();
      }
      workgroupBarrier();
      if (half == 0u) { tile += taken(thread); }
      workgroupBarrier();
    }
    if (half == 0u) { put(corner, 32u, transpose(tile)); }
    workgroupBarrier();
    for (var i = 0u; i < QUADS; i++) { s[i] = pool[side * 32u + lane + LANES * i]; }
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
