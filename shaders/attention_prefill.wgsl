// attention_prefill.wgsl: causal attention of a chunk of tokens over the cache, which holds the chunk already.
//   FlashAttention's tiling with online softmax (Dao et al. 2022, arXiv:2205.14135). Reference: tests/ops/test_attention.py
//
//   binding  name     type       shape                  access
//   0        q        vec4<f32>  [T, H, D / 4]          read    already scaled
//   1        k_cache  KvWord     lib/kv_f32             read
//   2        v_cache  KvWord     lib/kv_f32             read
//   3        step     Step       -                      read    token t stands at position step.pos + t
//   4        y        vec4<f32>  [T, H, D / 4]          write   tokens behind step.rows are left as they are
//   5        gates    vec4<f32>  lib/attention_gate     read    dummy without GATE
//
// Dispatch (HKV, ceil(T H / HKV / (8 TR)), 1). A row is a token with one of the query heads that share a kv head, in
// the order of y. A workgroup takes 8 TR rows and goes over the keys they see in tiles: scores = Q K^T, softmax, output +=
// weights V. Both products are made alike: thread (tr, tc) has rows tr + TR i (i < 8) of the left factor and some columns
// of the right one, sums stay in registers, and the factors go through workgroup memory, some of the inner axis at a time.
// Workgroups with many keys (late tokens) begin first, so that the GPU is full to the end.
// Libraries before it: step, kv_f32 or another form, attention_gate, score_cap.

override D: u32;             // head size, a multiple of 4 up to 16 TC
override H: u32;
override HKV: u32;
override WINDOW: u32 = 0u;   // key j is visible to query i when i - WINDOW < j <= i; 0: all j <= i
override TR: u32;            // threads along the rows
override TC: u32;            // threads along keys, then along D; a multiple of 8
override WG: u32;            // TR TC
override KEY_BLOCKS: u32;    // 1, 2: a thread has so many times 4 keys of a tile
override VALUE_BLOCKS: u32;  // 1 to 4: and so many quads of D; ceil(D / 4 / TC)
override PIECE: u32;         // quads of D in memory at a time for the scores; PIECE (TR + TC + 2) <= 112
override SLICE: u32;         // quads of keys in memory at a time for the output; <= PIECE, half of it for more than 2
                             // blocks of values; divides TC

const LOWEST = -1e30;   // maximum of a row that has seen no key
const HIDDEN = -3e38;   // score of a hidden key; so far below LOWEST that its weight is exp(-80) at most

@group(0) @binding(0) var<storage, read> q: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> k_cache: array<KvWord>;
@group(0) @binding(2) var<storage, read> v_cache: array<KvWord>;
@group(0) @binding(3) var<storage, read> step: Step;
@group(0) @binding(4) var<storage, read_write> y: array<vec4<f32>>;
@group(0) @binding(5) var<storage, read> gates: array<vec4<f32>>;

// What one thread reads for 4 steps of the inner axis is one element: left [PIECE, TR + 1], a quad for each of 8 rows;
// behind it right [PIECE, TC + 1], 8 quads. The ninth quad and the + 1 keep memory banks apart.
var<workgroup> factors: array<array<vec4<f32>, 9>, 112>;

// 4 numbers for each of the thread's rows.
struct Block {
  r0: vec4<f32>, r1: vec4<f32>, r2: vec4<f32>, r3: vec4<f32>,
  r4: vec4<f32>, r5: vec4<f32>, r6: vec4<f32>, r7: vec4<f32>,
}

// A number for each of the thread's rows.
struct Column { a: vec4<f32>, b: vec4<f32> }

fn read_rows(at: u32) -> Block {
  return Block(factors[at][0], factors[at][1], factors[at][2], factors[at][3],
               factors[at][4], factors[at][5], factors[at][6], factors[at][7]);
}

fn write_rows(at: u32, x: Block) {
  factors[at][0] = x.r0;
  factors[at][1] = x.r1;
  factors[at][2] = x.r2;
  factors[at][3] = x.r3;
  factors[at][4] = x.r4;
  factors[at][5] = x.r5;
  factors[at][6] = x.r6;
  factors[at][7] = x.r7;
}

fn madd(sum: vec4<f32>, a: vec4<f32>, b: mat4x4<f32>) -> vec4<f32> {
  return sum + a.x * b[0] + a.y * b[1] + a.z * b[2] + a.w * b[3];
}

// sum + left right
fn product(sum: Block, left: Block, right: mat4x4<f32>) -> Block {
  return Block(madd(sum.r0, left.r0, right), madd(sum.r1, left.r1, right),
               madd(sum.r2, left.r2, right), madd(sum.r3, left.r3, right),
               madd(sum.r4, left.r4, right), madd(sum.r5, left.r5, right),
               madd(sum.r6, left.r6, right), madd(sum.r7, left.r7, right));
}

fn scaled(x: Block, by: Column) -> Block {
  return Block(x.r0 * by.a.x, x.r1 * by.a.y, x.r2 * by.a.z, x.r3 * by.a.w,
               x.r4 * by.b.x, x.r5 * by.b.y, x.r6 * by.b.z, x.r7 * by.b.w);
}

fn all_capped(s: Block) -> Block {
  return Block(capped(s.r0), capped(s.r1), capped(s.r2), capped(s.r3),
               capped(s.r4), capped(s.r5), capped(s.r6), capped(s.r7));
}

fn largest(v: vec4<f32>) -> f32 { return max(max(v.x, v.y), max(v.z, v.w)); }

fn row_maxima(s: Block) -> Column {
  return Column(vec4<f32>(largest(s.r0), largest(s.r1), largest(s.r2), largest(s.r3)),
                vec4<f32>(largest(s.r4), largest(s.r5), largest(s.r6), largest(s.r7)));
}

fn total(v: vec4<f32>) -> f32 { return (v.x + v.y) + (v.z + v.w); }

fn row_sums(s: Block) -> Column {
  return Column(vec4<f32>(total(s.r0), total(s.r1), total(s.r2), total(s.r3)),
                vec4<f32>(total(s.r4), total(s.r5), total(s.r6), total(s.r7)));
}

fn weight(s: vec4<f32>, maximum: f32) -> vec4<f32> { return exp(max(s - maximum, vec4<f32>(-80.0))); }

fn weights(s: Block, maxima: Column) -> Block {
  return Block(weight(s.r0, maxima.a.x), weight(s.r1, maxima.a.y), weight(s.r2, maxima.a.z), weight(s.r3, maxima.a.w),
               weight(s.r4, maxima.b.x), weight(s.r5, maxima.b.y), weight(s.r6, maxima.b.z), weight(s.r7, maxima.b.w));
}

// Whether the query at `position` sees `key`.
fn visible(key: u32, position: u32) -> bool {
  return key <= position && (WINDOW == 0u || key + WINDOW > position);
}

// Scores of keys from `key` on for the row; hidden ones lowered.
fn shown(scores: vec4<f32>, key: u32, row: u32) -> vec4<f32> {
  let position = step.pos + token_of(row);
  var s = scores;
  if (!visible(key, position)) { s.x = HIDDEN; }
  if (!visible(key + 1u, position)) { s.y = HIDDEN; }
  if (!visible(key + 2u, position)) { s.z = HIDDEN; }
  if (!visible(key + 3u, position)) { s.w = HIDDEN; }
  return s;
}

fn all_shown(s: Block, key: u32, row: u32) -> Block {
  return Block(shown(s.r0, key, row), shown(s.r1, key, row + TR),
               shown(s.r2, key, row + 2u * TR), shown(s.r3, key, row + 3u * TR),
               shown(s.r4, key, row + 4u * TR), shown(s.r5, key, row + 5u * TR),
               shown(s.r6, key, row + 6u * TR), shown(s.r7, key, row + 7u * TR));
}

fn group_heads() -> u32 { return H / HKV; }

// The token of a row. Rows behind the end repeat the last token's; they are not written.
fn token_of(row: u32) -> u32 { return min(row / group_heads(), step.rows - 1u); }

// Where a row's head begins in q and y.
fn place(row: u32, kv_head: u32) -> u32 {
  return (token_of(row) * H + kv_head * group_heads() + row % group_heads()) * (D / 4u);
}

// Every thread of a row gives its part: elements tr TC / 4 .. have four threads' each.
fn publish(tr: u32, tc: u32, x: Column) {
  workgroupBarrier();
  let at = tr * (TC / 4u) + tc / 4u;
  factors[at][tc % 4u * 2u] = x.a;
  factors[at][tc % 4u * 2u + 1u] = x.b;
  workgroupBarrier();
}

fn put(value: vec4<f32>, row: u32, kv_head: u32, quad: u32) {
  let token = row / group_heads();
  if (token >= step.rows || quad >= D / 4u) { return; }
  y[place(row, kv_head) + quad] = gated(value, token, kv_head * group_heads() + row % group_heads(), quad);
}

fn put_all(x: Block, row: u32, kv_head: u32, quad: u32) {
  put(x.r0, row, kv_head, quad);
  put(x.r1, row + TR, kv_head, quad);
  put(x.r2, row + 2u * TR, kv_head, quad);
  put(x.r3, row + 3u * TR, kv_head, quad);
  put(x.r4, row + 4u * TR, kv_head, quad);
  put(x.r5, row + 5u * TR, kv_head, quad);
  put(x.r6, row + 6u * TR, kv_head, quad);
  put(x.r7, row + 7u * TR, kv_head, quad);
}

// What a thread brings to workgroup memory next. It is read from the cache before the products of what stands there, and
// unpacked and written after them: so nobody waits for it.
struct Fetched { a: vec4<f32>, b: vec4<f32>, c: vec4<f32>, d: vec4<f32> }

// A quad of key `key` of a kv head. Keys behind the last visible one are hidden, so it stands in for them.
fn key_quad(kv_head: u32, key: u32, end: u32, quad: u32) -> vec4<f32> {
  return k_quad(kv_head * kv_capacity() + min(key, end - 1u), min(quad, D / 4u - 1u));
}

fn value_quad(kv_head: u32, key: u32, end: u32, quad: u32) -> vec4<f32> {
  return v_quad(kv_head * kv_capacity() + min(key, end - 1u), min(quad, D / 4u - 1u));
}

// Loads of a thread for a piece of the keys and queries, and for a slice of the values: at most 4 each.
fn key_loads() -> u32 { return (4u * KEY_BLOCKS * PIECE + TR - 1u) / TR; }
fn row_loads() -> u32 { return (8u * PIECE + TC - 1u) / TC; }
fn value_loads() -> u32 { return (4u * SLICE * VALUE_BLOCKS + TR - 1u) / TR; }

fn fetch_keys(lane: u32, kv_head: u32, tile: u32, end: u32, piece: u32) -> Fetched {
  let quad = piece + lane % PIECE;
  let key = tile + lane / PIECE;
  var x = Fetched();
  x.a = key_quad(kv_head, key, end, quad);
  if (key_loads() > 1u) { x.b = key_quad(kv_head, key + WG / PIECE, end, quad); }
  if (key_loads() > 2u) { x.c = key_quad(kv_head, key + 2u * (WG / PIECE), end, quad); }
  if (key_loads() > 3u) { x.d = key_quad(kv_head, key + 3u * (WG / PIECE), end, quad); }
  return x;
}

fn put_key(inner: u32, key: u32, quad: vec4<f32>) {
  if (key >= 4u * KEY_BLOCKS * TC) { return; }
  let at = PIECE * (TR + 1u) + inner * (TC + 1u) + key / 4u % TC;
  factors[at][key / (4u * TC) * 4u + key % 4u] = quad;
}

fn put_keys(lane: u32, x: Fetched) {
  let inner = lane % PIECE;
  let key = lane / PIECE;
  put_key(inner, key, x.a);
  if (key_loads() > 1u) { put_key(inner, key + WG / PIECE, x.b); }
  if (key_loads() > 2u) { put_key(inner, key + 2u * (WG / PIECE), x.c); }
  if (key_loads() > 3u) { put_key(inner, key + 3u * (WG / PIECE), x.d); }
}

// Zeros behind the head's last quad.
fn query_quad(kv_head: u32, row: u32, quad: u32) -> vec4<f32> {
  if (D / 4u % PIECE > 0u && quad >= D / 4u) { return vec4<f32>(); }
  return q[place(row, kv_head) + quad];
}

fn fetch_rows(lane: u32, kv_head: u32, row0: u32, piece: u32) -> Fetched {
  let quad = piece + lane % PIECE;
  let row = row0 + lane / PIECE;
  var x = Fetched();
  x.a = query_quad(kv_head, row, quad);
  if (row_loads() > 1u) { x.b = query_quad(kv_head, row + WG / PIECE, quad); }
  if (row_loads() > 2u) { x.c = query_quad(kv_head, row + 2u * (WG / PIECE), quad); }
  if (row_loads() > 3u) { x.d = query_quad(kv_head, row + 3u * (WG / PIECE), quad); }
  return x;
}

fn put_row(inner: u32, row: u32, quad: vec4<f32>) {
  if (row >= 8u * TR) { return; }
  factors[inner * (TR + 1u) + row % TR][row / TR] = quad;
}

fn put_rows(lane: u32, x: Fetched) {
  let inner = lane % PIECE;
  let row = lane / PIECE;
  put_row(inner, row, x.a);
  if (row_loads() > 1u) { put_row(inner, row + WG / PIECE, x.b); }
  if (row_loads() > 2u) { put_row(inner, row + 2u * (WG / PIECE), x.c); }
  if (row_loads() > 3u) { put_row(inner, row + 3u * (WG / PIECE), x.d); }
}

fn fetch_value(i: u32, kv_head: u32, key: u32, end: u32) -> vec4<f32> {
  return value_quad(kv_head, key + i / (VALUE_BLOCKS * TC), end, i % (VALUE_BLOCKS * TC));
}

fn fetch_values(lane: u32, kv_head: u32, key: u32, end: u32) -> Fetched {
  var x = Fetched();
  x.a = fetch_value(lane, kv_head, key, end);
  if (value_loads() > 1u) { x.b = fetch_value(lane + WG, kv_head, key, end); }
  if (value_loads() > 2u) { x.c = fetch_value(lane + 2u * WG, kv_head, key, end); }
  if (value_loads() > 3u) { x.d = fetch_value(lane + 3u * WG, kv_head, key, end); }
  return x;
}

fn put_value(i: u32, quad: vec4<f32>) {
  let key = i / (VALUE_BLOCKS * TC);
  if (key >= 4u * SLICE) { return; }
  let block = i / TC % VALUE_BLOCKS;
  let at = PIECE * (TR + 1u) + (block / 2u * SLICE + key / 4u) * (TC + 1u) + i % TC;
  factors[at][block % 2u * 4u + key % 4u] = quad;
}

fn put_values(lane: u32, x: Fetched) {
  put_value(lane, x.a);
  if (value_loads() > 1u) { put_value(lane + WG, x.b); }
  if (value_loads() > 2u) { put_value(lane + 2u * WG, x.c); }
  if (value_loads() > 3u) { put_value(lane + 3u * WG, x.d); }
}

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let quads = D / 4u;
  let block_rows = 8u * TR;
  let blocks = (step.rows * group_heads() + block_rows - 1u) / block_rows;
  if (group.y >= blocks) {
    return;
  }
  let kv_head = group.x;
  let row0 = (blocks - 1u - group.y) * block_rows;  // of the workgroup

  let first_position = step.pos + token_of(row0);
  let last_position = step.pos + token_of(row0 + block_rows - 1u);
  let end = min(last_position + 1u, kv_capacity());
  var begin = 0u;
  if (WINDOW > 0u && first_position + 1u > WINDOW) { begin = first_position + 1u - WINDOW; }

  // Of 32 threads side by side, 8 read different elements of the right factor and 4 of the left one.
  let tr = lane / 8u % TR;
  let tc = lane / (8u * TR) * 8u + lane % 8u;
  let row = row0 + tr;
  let left = tr;                        // where the thread's elements of `factors` begin
  let right = PIECE * (TR + 1u) + tc;
  var maxima = Column(vec4<f32>(LOWEST), vec4<f32>(LOWEST));
  var sums = Column();                  // of the thread's own keys
  var y0 = Block();
  var y1 = Block();
  var y2 = Block();
  var y3 = Block();

  let tile_keys = 4u * KEY_BLOCKS * TC;
  var next_rows = fetch_rows(lane, kv_head, row0, 0u);
  var next_keys = fetch_keys(lane, kv_head, begin, end, 0u);
  var next_values = Fetched();
  for (var tile = begin; tile < end; tile += tile_keys) {
    var s0 = Block();  // keys tile + 4 tc ..
    var s1 = Block();  // keys tile + 4 (tc + TC) ..
    for (var piece = 0u; piece < quads; piece += PIECE) {
      workgroupBarrier();
      put_rows(lane, next_rows);
      put_keys(lane, next_keys);
      workgroupBarrier();
      if (piece + PIECE < quads) {
        next_rows = fetch_rows(lane, kv_head, row0, piece + PIECE);
        next_keys = fetch_keys(lane, kv_head, tile, end, piece + PIECE);
      } else {
        next_values = fetch_values(lane, kv_head, tile, end);
      }
      for (var i = 0u; i < PIECE; i++) {
        let rows = read_rows(left + i * (TR + 1u));
        let at = right + i * (TC + 1u);
        s0 = product(s0, rows, transpose(mat4x4<f32>(factors[at][0], factors[at][1], factors[at][2], factors[at][3])));
        if (KEY_BLOCKS > 1u) {
          s1 = product(s1, rows, transpose(mat4x4<f32>(factors[at][4], factors[at][5], factors[at][6], factors[at][7])));
        }
      }
    }

    let key = tile + 4u * tc;
    s0 = all_capped(s0);
    s1 = all_capped(s1);
    if (tile + tile_keys > first_position + 1u || (WINDOW > 0u && tile + WINDOW <= last_position)) {
      s0 = all_shown(s0, key, row);
      s1 = all_shown(s1, key + 4u * TC, row);
    }
    var now = row_maxima(s0);
    if (KEY_BLOCKS > 1u) {
      let others = row_maxima(s1);
      now = Column(max(now.a, others.a), max(now.b, others.b));
    }
    publish(tr, tc, now);
    now = maxima;
    for (var i = 0u; i < TC / 4u; i++) {
      let x = read_rows(tr * (TC / 4u) + i);
      now.a = max(max(now.a, max(x.r0, x.r2)), max(x.r4, x.r6));
      now.b = max(max(now.b, max(x.r1, x.r3)), max(x.r5, x.r7));
    }
    let decay = Column(exp(max(maxima.a - now.a, vec4<f32>(-80.0))), exp(max(maxima.b - now.b, vec4<f32>(-80.0))));
    maxima = now;
    s0 = weights(s0, maxima);
    var gain = row_sums(s0);
    if (KEY_BLOCKS > 1u) {
      s1 = weights(s1, maxima);
      let others = row_sums(s1);
      gain = Column(gain.a + others.a, gain.b + others.b);
    }
    sums = Column(sums.a * decay.a + gain.a, sums.b * decay.b + gain.b);
    y0 = scaled(y0, decay);
    if (VALUE_BLOCKS > 1u) { y1 = scaled(y1, decay); }
    if (VALUE_BLOCKS > 2u) { y2 = scaled(y2, decay); }
    if (VALUE_BLOCKS > 3u) { y3 = scaled(y3, decay); }

    let key_quads = min(KEY_BLOCKS * TC, (end - tile + 3u) / 4u);
    for (var slice = 0u; slice < key_quads; slice += SLICE) {
      workgroupBarrier();
      // Threads whose keys are in the slice write their weights; below 0 the difference becomes large.
      if (slice < TC) {
        if (tc - slice < SLICE) { write_rows((tc - slice) * (TR + 1u) + tr, s0); }
      } else {
        if (tc + TC - slice < SLICE) { write_rows((tc + TC - slice) * (TR + 1u) + tr, s1); }
      }
      put_values(lane, next_values);
      workgroupBarrier();
      if (slice + SLICE < key_quads) {
        next_values = fetch_values(lane, kv_head, tile + 4u * (slice + SLICE), end);
      } else {
        next_rows = fetch_rows(lane, kv_head, row0, 0u);
        next_keys = fetch_keys(lane, kv_head, tile + tile_keys, end, 0u);
      }
      for (var i = 0u; i < SLICE; i++) {
        let rows = read_rows(left + i * (TR + 1u));
        let at = right + i * (TC + 1u);
        y0 = product(y0, rows, mat4x4<f32>(factors[at][0], factors[at][1], factors[at][2], factors[at][3]));
        if (VALUE_BLOCKS > 1u) {
          y1 = product(y1, rows, mat4x4<f32>(factors[at][4], factors[at][5], factors[at][6], factors[at][7]));
        }
        let next = at + SLICE * (TC + 1u);
        if (VALUE_BLOCKS > 2u) {
          y2 = product(y2, rows, mat4x4<f32>(factors[next][0], factors[next][1], factors[next][2], factors[next][3]));
        }
        if (VALUE_BLOCKS > 3u) {
          y3 = product(y3, rows, mat4x4<f32>(factors[next][4], factors[next][5], factors[next][6], factors[next][7]));
        }
      }
    }
  }

  publish(tr, tc, sums);
  var all = Column();
  for (var i = 0u; i < TC / 4u; i++) {
    let x = read_rows(tr * (TC / 4u) + i);
    all.a += (x.r0 + x.r2) + (x.r4 + x.r6);
    all.b += (x.r1 + x.r3) + (x.r5 + x.r7);
  }
  let share = Column(1.0 / all.a, 1.0 / all.b);
  put_all(scaled(y0, share), row, kv_head, tc);
  if (VALUE_BLOCKS > 1u) { put_all(scaled(y1, share), row, kv_head, tc + TC); }
  if (VALUE_BLOCKS > 2u) { put_all(scaled(y2, share), row, kv_head, tc + 2u * TC); }
  if (VALUE_BLOCKS > 3u) { put_all(scaled(y3, share), row, kv_head, tc + 3u * TC); }
}
