// attention_prefill_units.wgsl: what attention_prefill.wgsl computes, on the tensor units: subgroup matrices of 16 x 16, f16
//   in, sums in f32. The keys that a row sees are up to a library: causal attention over the cache, or spans of the rows. q, k, v and the weights exp(score - maximum) have 11 bits, so this form is for --dtype f16 and auto.
//   FlashAttention's tiling (Dao et al. 2022, arXiv:2205.14135). Reference: tests/ops/test_attention.py
//
//   binding  name     type       shape                 access
//   0        q        f16        [T, H, D]             read    already scaled; T % 16 == 0
//   1        k_cache  vec4<u32>  [Hkv, context, D / 8] read    f16, eight a vector; its length tells the context
//   2        v_cache  vec4<u32>  [Hkv, context, D / 8] read
//   3        step     Step       -                     read    row t stands at position step.pos + t
//   4        y        vec4<f32>  [T, H, D / 4]         write   rows from step.rows on are not changed
//   5        gates    vec4<f32>  lib/attention_gate    read    dummy without GATE
//   6        spans    vec2<u32>  lib/attention_spans   read    there only with that library
//
// Dispatch (H, ceil(T / BQ), 1): eight subgroups of 32 take BQ rows of one head, the last rows first, since these see most
// keys. They go over the keys in tiles of 32, which are read from the cache while the tile before is in use. In a tile
//   1. a subgroup makes the scores of BQ / 4 rows and 16 keys,
//   2. the threads share out the BQ rows and turn scores into weights,
//   3. a subgroup adds 32 rows of weights times a part of the columns of the values to its sums, which stay in registers.
// A row keeps its maximum while the weights of new scores stay up to 2^8, so that sums are seldom rescaled. Rescaling
// takes them through workgroup memory, as WGSL has no other way to elements of a subgroup matrix.
//
// Each workgroup variable is a multiple of 16 bytes long: an NVIDIA driver packs them without gaps, and rounds the
// address of a matrix down to a multiple of 16.
// Features: shader-f16, subgroups, subgroup-matrix (host/gpu.py). Up to 48 KiB of workgroup memory.
// Libraries before it: step, attention_rows_128 or attention_rows_64, attention_causal or attention_spans, attention_gate,
// score_cap.

override D: u32;            // head size, at most MOST_D: D / COL_PARTS is 16, 32, 48 or 64
override H: u32;
override HKV: u32;

const WG = 256u;
const KT = 32u;                                 // keys a tile
const LOG2E = 1.4426950408889634;
override PARTS = D / 8u;                        // vectors of a cached row
override STRIDE = D + 8u;                       // of keys in workgroup memory: keeps memory banks apart
const VALUE_STRIDE = 72u;                       // 64 columns and 8
const SCORE_STRIDE = 16u + (BQ - 64u) / 16u;    // 16 keys, and 4 where there is room for them
const WEIGHT_STRIDE = KT + 8u;
const LAST_WEIGHTS = 8u * WEIGHT_STRIDE - select(5u, 7u, BQ == 128u);  // a thread's first quad of 32 rows is not behind it
override COLS = D / COL_PARTS;                  // columns of a subgroup's sums, at most 64
const TALL = BQ == 128u;                        // a subgroup's scores are two blocks of rows; else one, and D may exceed 128
const LOWER = select(0u, 16u * SCORE_STRIDE, TALL);  // where the second block of rows begins
const ROW_THREADS = WG / BQ;                    // threads that share a row of scores: 2 or 4

alias Left = subgroup_matrix_left<f16, 16, 16>;
alias Right = subgroup_matrix_right<f16, 16, 16>;
alias Sums = subgroup_matrix_result<f32, 16, 16>;

@group(0) @binding(0) var<storage, read> q: array<f16>;
@group(0) @binding(1) var<storage, read> k_cache: array<vec4<u32>>;
@group(0) @binding(2) var<storage, read> v_cache: array<vec4<u32>>;
@group(0) @binding(3) var<storage, read> step: Step;
@group(0) @binding(4) var<storage, read_write> y: array<vec4<f32>>;
@group(0) @binding(5) var<storage, read> gates: array<vec4<f32>>;
@group(0) @binding(6) var<storage, read> spans: array<vec2<u32>>;

// Matrices lie at constant places in parts of these. If a place were known only when the kernel runs, browsers would first
// ask whether all of the matrix is inside: a branch for each.
var<workgroup> keys: array<array<f16, 16u * (MOST_D + 8u)>, 2>;                      // of 16 keys
var<workgroup> values: array<array<f16, KT * VALUE_STRIDE - 8u>, COL_PARTS>;         // of COLS columns
var<workgroup> weights: array<array<f16, 32u * WEIGHT_STRIDE>, BQ / 32u>;            // of 32 rows
var<workgroup> scores: array<array<f32, BQ / 4u * SCORE_STRIDE>, 8>;  // of each subgroup; its way to elements of sums, too
var<workgroup> factors: array<f32, BQ>;                // what a row's sums are multiplied by
var<workgroup> moved: vec4<u32>;                       // x: the last tile in which a row's maximum moved

// Scores of four keys from `key` on, of a row that sees keys seen.x .. seen.y - 1.
fn masked(s: vec4<f32>, key: u32, seen: vec2<u32>) -> vec4<f32> {
  var m = s;
  if (key < seen.x || key >= seen.y) { m.x = -1e30; }
  if (key + 1u < seen.x || key + 1u >= seen.y) { m.y = -1e30; }
  if (key + 2u < seen.x || key + 2u >= seen.y) { m.z = -1e30; }
  if (key + 3u < seen.x || key + 3u >= seen.y) { m.w = -1e30; }
  return m;
}

// Vector number `unit` of the tile of keys from `first` on; zeros behind the end, where the cache holds anything.
fn fetch_keys(cache: u32, first: u32, end: u32, unit: u32) -> vec4<u32> {
  let key = first + unit / PARTS;
  if (key >= end || unit >= KT * PARTS) { return vec4<u32>(); }
  return k_cache[(cache + key) * PARTS + unit % PARTS];
}

fn fetch_values(cache: u32, first: u32, end: u32, unit: u32) -> vec4<u32> {
  let key = first + unit / PARTS;
  if (key >= end || unit >= KT * PARTS) { return vec4<u32>(); }
  return v_cache[(cache + key) * PARTS + unit % PARTS];
}

fn query_block(at: u32) -> Left { return subgroupMatrixLoad<Left>(&q, at, false, H * D); }
fn key_block(part: u32, at: u32) -> Right { return subgroupMatrixLoad<Right>(&keys[part], at, true, STRIDE); }
fn value_block(part: u32, at: u32) -> Right { return subgroupMatrixLoad<Right>(&values[part], at, false, VALUE_STRIDE); }
fn weight_block(part: u32, at: u32) -> Left { return subgroupMatrixLoad<Left>(&weights[part], at, false, WEIGHT_STRIDE); }
fn times(a: Left, b: Right, sums: Sums) -> Sums { return subgroupMatrixMultiplyAccumulate(a, b, sums); }

// The sums of 16 rows from `row` on, each row times its factor.
fn rescaled(sums: Sums, subgroup: u32, row: u32, lane: u32) -> Sums {
  subgroupMatrixStore(&scores[subgroup], 0u, sums, false, 16u);
  workgroupBarrier();
  for (var i = lane; i < 256u; i += 32u) { scores[subgroup][i] *= factors[row + i / 16u]; }
  workgroupBarrier();
  let made = subgroupMatrixLoad<Sums>(&scores[subgroup], 0u, false, 16u);
  workgroupBarrier();
  return made;
}

fn score_quad(part: u32, quad: u32) -> vec4<f32> {
  let at = 4u * min(quad, BQ / 16u * SCORE_STRIDE - 1u);
  return capped(vec4<f32>(scores[part][at], scores[part][at + 1u], scores[part][at + 2u], scores[part][at + 3u])) * LOG2E;
}

// The sums into y: 16 columns of a head from `column` on, rows from row0 + row on.
fn put(sums: Sums, subgroup: u32, row0: u32, row: u32, head: u32, column: u32, lane: u32) {
  subgroupMatrixStore(&scores[subgroup], 0u, sums, false, 16u);
  workgroupBarrier();
  for (var i = lane; i < 64u; i += 32u) {
    let r = row + i / 4u;
    let from_ = 4u * i;
    if (row0 + r < step.rows) {
      let sums_ = vec4<f32>(
        scores[subgroup][from_], scores[subgroup][from_ + 1u], scores[subgroup][from_ + 2u], scores[subgroup][from_ + 3u]);
      let quad = column / 4u + i % 4u;
      y[((row0 + r) * H + head) * (D / 4u) + quad] = gated(factors[r] * sums_, row0 + r, head, quad);
    }
  }
  workgroupBarrier();
}

// Eight elements of a tile into workgroup memory. The smallest of the place and the last one there is, times eight: the
// compiler then sees that all eight are inside and stores them at once. Not in a loop over an array: arrays that are indexed by a loop go to slow
// memory where the compiler does not unroll it (a fifth of the kernel's time, in a form of it that was tried).
fn stage_keys(unit: u32, fresh: vec4<u32>) {
  if (unit >= KT * PARTS) { return; }
  let part = unit / PARTS / 16u;
  let at = 8u * min(unit / PARTS % 16u * (STRIDE / 8u) + unit % PARTS, 2u * (MOST_D + 8u) - 1u);
  let low = bitcast<vec4<f16>>(fresh.xy);
  let high = bitcast<vec4<f16>>(fresh.zw);
  keys[part][at + 0u] = low.x;
  keys[part][at + 1u] = low.y;
  keys[part][at + 2u] = low.z;
  keys[part][at + 3u] = low.w;
  keys[part][at + 4u] = high.x;
  keys[part][at + 5u] = high.y;
  keys[part][at + 6u] = high.z;
  keys[part][at + 7u] = high.w;
}

fn stage_values(unit: u32, fresh: vec4<u32>) {
  if (unit >= KT * PARTS) { return; }
  let column = unit % PARTS * 8u;
  let part = column / COLS;
  let at = 8u * min(unit / PARTS * (VALUE_STRIDE / 8u) + column % COLS / 8u, KT * VALUE_STRIDE / 8u - 2u);
  let low = bitcast<vec4<f16>>(fresh.xy);
  let high = bitcast<vec4<f16>>(fresh.zw);
  values[part][at + 0u] = low.x;
  values[part][at + 1u] = low.y;
  values[part][at + 2u] = low.z;
  values[part][at + 3u] = low.w;
  values[part][at + 4u] = high.x;
  values[part][at + 5u] = high.y;
  values[part][at + 6u] = high.z;
  values[part][at + 7u] = high.w;
}

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
        @builtin(local_invocation_index) thread: u32) {
  let subgroup = thread / 32u;  // with the built-in number the kernel is a tenth slower; the self-check would notice a
  let lane = thread % 32u;      // GPU that deals threads out in another order
  let head = group.x;
  let row0 = (groups.y - 1u - group.y) * BQ;
  let rows = step.rows;
  if (row0 >= rows) {
    return;
  }
  let context = arrayLength(&k_cache) / (HKV * PARTS);
  let cache = head * HKV / H * context;
  let reach = seen_by_rows(row0, min(row0 + BQ, rows));
  let begin = reach.x / KT * KT;
  let end = min(reach.y, context);

  // 1. The subgroup's blocks of scores, and its queries: r is a second block of rows, or the columns from 128 on. Blocks
  // behind the last row repeat the last one; they are not written.
  let score_row = subgroup / 2u * (BQ / 4u);
  let key_part = subgroup % 2u;
  let last = arrayLength(&q) / (H * D) - 16u;
  let q_at = (min(row0 + score_row, last) * H + head) * D;
  var r_at = q_at + 128u;
  if (TALL) { r_at = (min(row0 + score_row + 16u, last) * H + head) * D; }
  var q0 = Left();
  var q1 = Left();
  var q2 = Left();
  var q3 = Left();
  var q4 = Left();
  var q5 = Left();
  var q6 = Left();
  var q7 = Left();
  var r0 = Left();
  var r1 = Left();
  var r2 = Left();
  var r3 = Left();
  var r4 = Left();
  var r5 = Left();
  var r6 = Left();
  var r7 = Left();
  if (D > 0u) { q0 = query_block(q_at + 0u); }
  if (D > 16u) { q1 = query_block(q_at + 16u); }
  if (D > 32u) { q2 = query_block(q_at + 32u); }
  if (D > 48u) { q3 = query_block(q_at + 48u); }
  if (D > 64u) { q4 = query_block(q_at + 64u); }
  if (D > 80u) { q5 = query_block(q_at + 80u); }
  if (D > 96u) { q6 = query_block(q_at + 96u); }
  if (D > 112u) { q7 = query_block(q_at + 112u); }
  if ((TALL && D > 0u) || D > 128u) { r0 = query_block(r_at + 0u); }
  if ((TALL && D > 16u) || D > 144u) { r1 = query_block(r_at + 16u); }
  if ((TALL && D > 32u) || D > 160u) { r2 = query_block(r_at + 32u); }
  if ((TALL && D > 48u) || D > 176u) { r3 = query_block(r_at + 48u); }
  if ((TALL && D > 64u) || D > 192u) { r4 = query_block(r_at + 64u); }
  if ((TALL && D > 80u) || D > 208u) { r5 = query_block(r_at + 80u); }
  if ((TALL && D > 96u) || D > 224u) { r6 = query_block(r_at + 96u); }
  if ((TALL && D > 112u) || D > 240u) { r7 = query_block(r_at + 112u); }
  // 2. The thread's row.
  let row = thread / ROW_THREADS;
  let share = thread % ROW_THREADS * 4u;
  let seen = seen_by(min(row0 + row, rows - 1u));
  var maximum = -1e30;
  var sum = 0.0;
  // 3. The subgroup's sums: a are 16 rows, b the next 16.
  let row_part = subgroup / COL_PARTS;
  let sum_row = row_part * 32u;
  let col_part = subgroup % COL_PARTS;
  let sum_column = col_part * COLS;
  var a0 = Sums();
  var a1 = Sums();
  var a2 = Sums();
  var a3 = Sums();
  var b0 = Sums();
  var b1 = Sums();
  var b2 = Sums();
  var b3 = Sums();

  if (thread == 0u) { moved = vec4<u32>(0xffffffffu); }
  {
    var k0 = fetch_keys(cache, begin, end, thread);
    var k1 = vec4<u32>();
    if (D > 64u) { k1 = fetch_keys(cache, begin, end, thread + 256u); }
    var k2 = vec4<u32>();
    if (D > 128u) { k2 = fetch_keys(cache, begin, end, thread + 512u); }
    var k3 = vec4<u32>();
    if (D > 192u) { k3 = fetch_keys(cache, begin, end, thread + 768u); }
    stage_keys(thread, k0);
    if (D > 64u) { stage_keys(thread + WG, k1); }
    if (D > 128u) { stage_keys(thread + 2u * WG, k2); }
    if (D > 192u) { stage_keys(thread + 3u * WG, k3); }
  }
  workgroupBarrier();
  for (var tile = begin; tile < end; tile += KT) {
    // The next keys and this tile's values are on their way while the scores are made.
    var v0 = fetch_values(cache, tile, end, thread);
    var v1 = vec4<u32>();
    if (D > 64u) { v1 = fetch_values(cache, tile, end, thread + 256u); }
    var v2 = vec4<u32>();
    if (D > 128u) { v2 = fetch_values(cache, tile, end, thread + 512u); }
    var v3 = vec4<u32>();
    if (D > 192u) { v3 = fetch_values(cache, tile, end, thread + 768u); }
    var k0 = fetch_keys(cache, tile + KT, end, thread);
    var k1 = vec4<u32>();
    if (D > 64u) { k1 = fetch_keys(cache, tile + KT, end, thread + 256u); }
    var k2 = vec4<u32>();
    if (D > 128u) { k2 = fetch_keys(cache, tile + KT, end, thread + 512u); }
    var k3 = vec4<u32>();
    if (D > 192u) { k3 = fetch_keys(cache, tile + KT, end, thread + 768u); }

    var s0 = Sums();
    var s1 = Sums();
    if (D > 0u) {
      let block = key_block(key_part, 0u);
      s0 = times(q0, block, s0);
      if (TALL) { s1 = times(r0, block, s1); }
    }
    if (D > 16u) {
      let block = key_block(key_part, 16u);
      s0 = times(q1, block, s0);
      if (TALL) { s1 = times(r1, block, s1); }
    }
    if (D > 32u) {
      let block = key_block(key_part, 32u);
      s0 = times(q2, block, s0);
      if (TALL) { s1 = times(r2, block, s1); }
    }
    if (D > 48u) {
      let block = key_block(key_part, 48u);
      s0 = times(q3, block, s0);
      if (TALL) { s1 = times(r3, block, s1); }
    }
    if (D > 64u) {
      let block = key_block(key_part, 64u);
      s0 = times(q4, block, s0);
      if (TALL) { s1 = times(r4, block, s1); }
    }
    if (D > 80u) {
      let block = key_block(key_part, 80u);
      s0 = times(q5, block, s0);
      if (TALL) { s1 = times(r5, block, s1); }
    }
    if (D > 96u) {
      let block = key_block(key_part, 96u);
      s0 = times(q6, block, s0);
      if (TALL) { s1 = times(r6, block, s1); }
    }
    if (D > 112u) {
      let block = key_block(key_part, 112u);
      s0 = times(q7, block, s0);
      if (TALL) { s1 = times(r7, block, s1); }
    }
    if (D > 128u) { s0 = times(r0, key_block(key_part, 128u), s0); }
    if (D > 144u) { s0 = times(r1, key_block(key_part, 144u), s0); }
    if (D > 160u) { s0 = times(r2, key_block(key_part, 160u), s0); }
    if (D > 176u) { s0 = times(r3, key_block(key_part, 176u), s0); }
    if (D > 192u) { s0 = times(r4, key_block(key_part, 192u), s0); }
    if (D > 208u) { s0 = times(r5, key_block(key_part, 208u), s0); }
    if (D > 224u) { s0 = times(r6, key_block(key_part, 224u), s0); }
    if (D > 240u) { s0 = times(r7, key_block(key_part, 240u), s0); }
    subgroupMatrixStore(&scores[subgroup], 0u, s0, false, SCORE_STRIDE);
    if (TALL) { subgroupMatrixStore(&scores[subgroup], LOWER, s1, false, SCORE_STRIDE); }
    workgroupBarrier();

    // A thread has quads of its row that lie ROW_THREADS quads apart, in the parts of both halves of the keys.
    const HIDDEN = vec4<f32>(-1e30);
    let early = row / (BQ / 4u) * 2u;
    let from_ = row % (BQ / 4u) * (SCORE_STRIDE / 4u) + share / 4u;
    let apart = 4u * ROW_THREADS;
    var x0 = score_quad(early, from_);
    var x1 = HIDDEN;
    var x2 = HIDDEN;
    var x3 = HIDDEN;
    if (ROW_THREADS == 2u) {
      x1 = score_quad(early, from_ + 2u);
      x2 = score_quad(early + 1u, from_);
      x3 = score_quad(early + 1u, from_ + 2u);
    } else {
      x1 = score_quad(early + 1u, from_);
    }
    if (tile < reach.z || tile + KT > reach.w) {
      let key = tile + share;
      x0 = masked(x0, key, seen);
      x1 = masked(x1, key + apart, seen);
      x2 = masked(x2, key + 2u * apart, seen);
      x3 = masked(x3, key + 3u * apart, seen);
    }
    let most4 = max(max(x0, x1), max(x2, x3));
    var most = max(max(most4.x, most4.y), max(most4.z, most4.w));
    most = max(most, subgroupShuffleXor(most, 1u));
    if (ROW_THREADS == 4u) { most = max(most, subgroupShuffleXor(most, 2u)); }
    var factor = 1.0;
    if (most > maximum + 8.0) {
      if (maximum > -1e29 && row0 + row < rows) {  // the row has sums already
        factor = exp2(max(maximum - most, -126.0));
        sum *= factor;
        moved = vec4<u32>(tile);
      }
      maximum = most;
    }
    let top = max(maximum, -1e20);  // far above the scores of hidden keys, in a row that has seen none too
    let p_part = row / 32u;
    let p_at = 4u * min(row % 32u * (WEIGHT_STRIDE / 4u) + share / 4u, LAST_WEIGHTS);
    let p0 = vec4<f16>(exp2(max(x0 - top, vec4<f32>(-40.0))));  // 2^-40 is 0 in f16
    let p1 = vec4<f16>(exp2(max(x1 - top, vec4<f32>(-40.0))));
    weights[p_part][p_at] = p0.x;
    weights[p_part][p_at + 1u] = p0.y;
    weights[p_part][p_at + 2u] = p0.z;
    weights[p_part][p_at + 3u] = p0.w;
    weights[p_part][p_at + apart] = p1.x;
    weights[p_part][p_at + apart + 1u] = p1.y;
    weights[p_part][p_at + apart + 2u] = p1.z;
    weights[p_part][p_at + apart + 3u] = p1.w;
    var total = vec4<f32>(p0) + vec4<f32>(p1);
    if (ROW_THREADS == 2u) {
      let p2 = vec4<f16>(exp2(max(x2 - top, vec4<f32>(-40.0))));
      let p3 = vec4<f16>(exp2(max(x3 - top, vec4<f32>(-40.0))));
      weights[p_part][p_at + 2u * apart] = p2.x;
      weights[p_part][p_at + 2u * apart + 1u] = p2.y;
      weights[p_part][p_at + 2u * apart + 2u] = p2.z;
      weights[p_part][p_at + 2u * apart + 3u] = p2.w;
      weights[p_part][p_at + 3u * apart] = p3.x;
      weights[p_part][p_at + 3u * apart + 1u] = p3.y;
      weights[p_part][p_at + 3u * apart + 2u] = p3.z;
      weights[p_part][p_at + 3u * apart + 3u] = p3.w;
      total += vec4<f32>(p2) + vec4<f32>(p3);
    }
    sum += total.x + total.y + total.z + total.w;
    stage_values(thread, v0);
    if (D > 64u) { stage_values(thread + WG, v1); }
    if (D > 128u) { stage_values(thread + 2u * WG, v2); }
    if (D > 192u) { stage_values(thread + 3u * WG, v3); }
    stage_keys(thread, k0);
    if (D > 64u) { stage_keys(thread + WG, k1); }
    if (D > 128u) { stage_keys(thread + 2u * WG, k2); }
    if (D > 192u) { stage_keys(thread + 3u * WG, k3); }
    // Uniform, and a barrier: weights, values and the next keys are there.
    if (workgroupUniformLoad(&moved).x == tile) {
      if (share == 0u) { factors[row] = factor; }
      workgroupBarrier();
      if (COLS > 0u) {
        a0 = rescaled(a0, subgroup, sum_row, lane);
        b0 = rescaled(b0, subgroup, sum_row + 16u, lane);
      }
      if (COLS > 16u) {
        a1 = rescaled(a1, subgroup, sum_row, lane);
        b1 = rescaled(b1, subgroup, sum_row + 16u, lane);
      }
      if (COLS > 32u) {
        a2 = rescaled(a2, subgroup, sum_row, lane);
        b2 = rescaled(b2, subgroup, sum_row + 16u, lane);
      }
      if (COLS > 48u) {
        a3 = rescaled(a3, subgroup, sum_row, lane);
        b3 = rescaled(b3, subgroup, sum_row + 16u, lane);
      }
    }
    for (var k = 0u; k < KT; k += 16u) {
      let upper = weight_block(row_part, k);
      let lower = weight_block(row_part, 16u * WEIGHT_STRIDE + k);
      let at = k * VALUE_STRIDE;
      if (COLS > 0u) {
        let block = value_block(col_part, at + 0u);
        a0 = times(upper, block, a0);
        b0 = times(lower, block, b0);
      }
      if (COLS > 16u) {
        let block = value_block(col_part, at + 16u);
        a1 = times(upper, block, a1);
        b1 = times(lower, block, b1);
      }
      if (COLS > 32u) {
        let block = value_block(col_part, at + 32u);
        a2 = times(upper, block, a2);
        b2 = times(lower, block, b2);
      }
      if (COLS > 48u) {
        let block = value_block(col_part, at + 48u);
        a3 = times(upper, block, a3);
        b3 = times(lower, block, b3);
      }
    }
  }

  sum += subgroupShuffleXor(sum, 1u);
  if (ROW_THREADS == 4u) { sum += subgroupShuffleXor(sum, 2u); }
  if (share == 0u) { factors[row] = 1.0 / max(sum, 1e-30); }  // a row that sees nothing gives 0
  if (COLS > 0u) {
    put(a0, subgroup, row0, sum_row, head, sum_column + 0u, lane);
    put(b0, subgroup, row0, sum_row + 16u, head, sum_column + 0u, lane);
  }
  if (COLS > 16u) {
    put(a1, subgroup, row0, sum_row, head, sum_column + 16u, lane);
    put(b1, subgroup, row0, sum_row + 16u, head, sum_column + 16u, lane);
  }
  if (COLS > 32u) {
    put(a2, subgroup, row0, sum_row, head, sum_column + 32u, lane);
    put(b2, subgroup, row0, sum_row + 16u, head, sum_column + 32u, lane);
  }
  if (COLS > 48u) {
    put(a3, subgroup, row0, sum_row, head, sum_column + 48u, lane);
    put(b3, subgroup, row0, sum_row + 16u, head, sum_column + 48u, lane);
  }
}
