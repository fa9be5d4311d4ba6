// attention_prefill.wgsl: attention of a chunk of tokens over the cache, which already holds the chunk: causal, or each
//   token over a span of its own, as a library says.
//   FlashAttention's tiling with online softmax (Dao et al. 2022, arXiv:2205.14135). Reference: tests/ops/test_attention.py
//
//   binding  name     type       shape                  access
//   0        q        vec4<f32>  [T, H, D / 4]          read    already scaled
//   1        k_cache  KvWord     lib/kv_f32             read
//   2        v_cache  KvWord     lib/kv_f32             read
//   3        step     Step       -                      read    token t stands at position step.pos + t
//   4        y        vec4<f32>  [T, H, D / 4]          write   tokens from step.rows on are not changed
//   5        gates    vec4<f32>  lib/attention_gate     read    dummy without GATE
//   6        spans    vec2<u32>  lib/attention_spans    read    there only with that library
//
// Dispatch (HKV, ceil(T H / HKV / (8 TR)), 1). A row is a token with one of the query heads that share a kv head, in
// the order of y. A workgroup takes 8 TR rows and goes over the keys they see in tiles: scores = Q K^T, softmax, output +=
// weights V. Both products work alike: thread (tr, tc) has rows tr + TR i (i < 8) of the left factor and some columns
// of the right one, sums stay in registers, and the factors go through workgroup memory, a part of the inner axis at a
// time.
// Workgroups with many keys (late tokens) begin first, so that the GPU is full to the end.
// Libraries before it: step, kv_f32 or another form, attention_causal or attention_spans, attention_gate, score_cap.

override D: u32;             // head size, a multiple of 4 up to 16 TC
override H: u32;
override HKV: u32;
override TR: u32;            // threads along the rows
override TC: u32;            // threads along keys, then along D; a multiple of 8
override WG: u32;            // TR TC
override KEY_BLOCKS: u32;    // 1, 2: a thread has so many times 4 keys of a tile
override VALUE_BLOCKS: u32;  // 1 to 4: and so many quads of D; ceil(D / 4 / TC)
override PIECE: u32;         // quads of D in memory at a time for the scores; PIECE (TR + TC + 2) <= 112
override SLICE: u32;         // quads of keys in memory at a time for the output; <= PIECE, half of it for more than 2
                             // blocks of values; divides TC. PIECE and SLICE keep the loads below at 4 or fewer
override AT_ONCE: u32 = 4u;  // so many of these before their stores; 1 on software adapters, which compile each for long

const LOWEST = -1e30;   // maximum of a row that has seen no key
const HIDDEN = -3e38;   // added to the score of a hidden key; so far below LOWEST that its weight is exp(-80) at most

@group(0) @binding(0) var<storage, read> q: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> k_cache: array<KvWord>;
@group(0) @binding(2) var<storage, read> v_cache: array<KvWord>;
@group(0) @binding(3) var<storage, read> step: Step;
@group(0) @binding(4) var<storage, read_write> y: array<vec4<f32>>;
@group(0) @binding(5) var<storage, read> gates: array<vec4<f32>>;
@group(0) @binding(6) var<storage, read> spans: array<vec2<u32>>;

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

// 0 for a row that sees no key: its sum has only weights exp(-80).
fn inverse(sum: vec4<f32>) -> vec4<f32> {
  return vec4<f32>(sum > vec4<f32>(1e-20)) / max(sum, vec4<f32>(1e-20));
}

fn weight(s: vec4<f32>, maximum: f32) -> vec4<f32> { return exp(max(s - maximum, vec4<f32>(-80.0))); }

fn weights(s: Block, maxima: Column) -> Block {
  return Block(weight(s.r0, maxima.a.x), weight(s.r1, maxima.a.y), weight(s.r2, maxima.a.z), weight(s.r3, maxima.a.w),
               weight(s.r4, maxima.b.x), weight(s.r5, maxima.b.y), weight(s.r6, maxima.b.z), weight(s.r7, maxima.b.w));
}

// Scores of keys from `key` on for a row that sees keys seen.x .. seen.y - 1; hidden ones lowered. Without branches, which
// SwiftShader compiles for minutes.
fn shown(scores: vec4<f32>, key: u32, seen: vec2<u32>) -> vec4<f32> {
  let keys = vec4<u32>(key, key + 1u, key + 2u, key + 3u);
  return scores + HIDDEN * vec4<f32>((keys < vec4<u32>(seen.x)) | (keys >= vec4<u32>(seen.y)));
}

// Of all rows of the thread's; `row` is its row 0.
fn all_shown(s: Block, key: u32, row: u32, tokens: u32) -> Block {
  return Block(shown(s.r0, key, seen_by(token_of(row, tokens))), shown(s.r1, key, seen_by(token_of(row + TR, tokens))),
               shown(s.r2, key, seen_by(token_of(row + 2u * TR, tokens))), shown(s.r3, key, seen_by(token_of(row + 3u * TR, tokens))),
               shown(s.r4, key, seen_by(token_of(row + 4u * TR, tokens))), shown(s.r5, key, seen_by(token_of(row + 5u * TR, tokens))),
               shown(s.r6, key, seen_by(token_of(row + 6u * TR, tokens))), shown(s.r7, key, seen_by(token_of(row + 7u * TR, tokens))));
}

fn group_heads() -> u32 { return H / HKV; }

// The token of a row, of so many. Rows behind the end repeat the last token's; they are not written.
fn token_of(row: u32, tokens: u32) -> u32 { return min(row / group_heads(), tokens - 1u); }

// Where a row's head begins in q and y.
fn place(row: u32, kv_head: u32, tokens: u32) -> u32 {
  return (token_of(row, tokens) * H + kv_head * group_heads() + row % group_heads()) * (D / 4u);
}

// Every thread of a row gives its part: elements tr TC / 4 .. have four threads' each.
fn publish(tr: u32, tc: u32, x: Column) {
  workgroupBarrier();
  let at = tr * (TC / 4u) + tc / 4u;
  factors[at][tc % 4u * 2u] = x.a;
  factors[at][tc % 4u * 2u + 1u] = x.b;
  workgroupBarrier();
}

fn put(value: vec4<f32>, row: u32, kv_head: u32, quad: u32, tokens: u32) {
  let token = row / group_heads();
  if (token >= tokens || quad >= D / 4u) { return; }
  y[place(row, kv_head, tokens) + quad] = gated(value, token, kv_head * group_heads() + row % group_heads(), quad);
}

// Row after row; the others move up, so that the writing stands in the code once.
fn put_all(x: Block, row: u32, kv_head: u32, quad: u32, tokens: u32) {
  var rest = x;
  for (var i = 0u; i < 8u; i++) {
    put(rest.r0, row + i * TR, kv_head, quad, tokens);
    rest = Block(rest.r1, rest.r2, rest.r3, rest.r4, rest.r5, rest.r6, rest.r7, rest.r7);
  }
}

// Below, a thread brings quads to workgroup memory, at most 4. With AT_ONCE = 4 all loads stand before all stores, so that it
// waits once, and each loop has one turn.

fn row_loads() -> u32 { return (8u * PIECE + TC - 1u) / TC; }
fn key_loads() -> u32 { return (4u * KEY_BLOCKS * PIECE + TR - 1u) / TR; }
fn value_loads() -> u32 { return (4u * SLICE * VALUE_BLOCKS + TR - 1u) / TR; }

// A piece of the queries: quads from `piece` on.
fn bring_rows(lane: u32, row0: u32, kv_head: u32, piece: u32, tokens: u32) {
  let inner = lane % PIECE;
  let quad = piece + inner;
  let apart = WG / PIECE;
  let together = min(row_loads(), AT_ONCE);
  for (var turn = 0u; turn < row_loads(); turn += AT_ONCE) {
    let row = lane / PIECE + turn * apart;
    let a = query_quad(row0 + row, kv_head, quad, tokens);
    var b = vec4<f32>();
    var c = vec4<f32>();
    var d = vec4<f32>();
    if (together > 1u) { b = query_quad(row0 + row + apart, kv_head, quad, tokens); }
    if (together > 2u) { c = query_quad(row0 + row + 2u * apart, kv_head, quad, tokens); }
    if (together > 3u) { d = query_quad(row0 + row + 3u * apart, kv_head, quad, tokens); }
    put_query(inner, row, a);
    if (together > 1u) { put_query(inner, row + apart, b); }
    if (together > 2u) { put_query(inner, row + 2u * apart, c); }
    if (together > 3u) { put_query(inner, row + 3u * apart, d); }
  }
}

// Zeros behind the head's last quad.
fn query_quad(row: u32, kv_head: u32, quad: u32, tokens: u32) -> vec4<f32> {
  if (D / 4u % PIECE > 0u && quad >= D / 4u) { return vec4<f32>(); }
  return q[place(row, kv_head, tokens) + quad];
}

fn put_query(inner: u32, row: u32, x: vec4<f32>) {
  if (row >= 8u * TR) { return; }
  factors[inner * (TR + 1u) + row % TR][row / TR] = x;
}

// A piece of the tile's keys. `first`, `last`: rows of the cache; behind the last visible key it stands in for hidden ones.
fn bring_keys(lane: u32, first: u32, last: u32, piece: u32) {
  let inner = lane % PIECE;
  let quad = min(piece + inner, D / 4u - 1u);
  let apart = WG / PIECE;
  let together = min(key_loads(), AT_ONCE);
  for (var turn = 0u; turn < key_loads(); turn += AT_ONCE) {
    let key = lane / PIECE + turn * apart;
    let a = k_quad(min(first + key, last), quad);
    var b = vec4<f32>();
    var c = vec4<f32>();
    var d = vec4<f32>();
    if (together > 1u) { b = k_quad(min(first + key + apart, last), quad); }
    if (together > 2u) { c = k_quad(min(first + key + 2u * apart, last), quad); }
    if (together > 3u) { d = k_quad(min(first + key + 3u * apart, last), quad); }
    put_key(inner, key, a);
    if (together > 1u) { put_key(inner, key + apart, b); }
    if (together > 2u) { put_key(inner, key + 2u * apart, c); }
    if (together > 3u) { put_key(inner, key + 3u * apart, d); }
  }
}

fn put_key(inner: u32, key: u32, x: vec4<f32>) {
  if (key >= 4u * KEY_BLOCKS * TC) { return; }
  let at = PIECE * (TR + 1u) + inner * (TC + 1u) + key / 4u % TC;
  factors[at][key / (4u * TC) * 4u + key % 4u] = x;
}

// A slice of the tile's values, whole rows; `first` and `last` as above.
fn bring_values(lane: u32, first: u32, last: u32) {
  let together = min(value_loads(), AT_ONCE);
  for (var turn = 0u; turn < value_loads(); turn += AT_ONCE) {
    let i = lane + turn * WG;
    let a = value_quad(i, first, last);
    var b = vec4<f32>();
    var c = vec4<f32>();
    var d = vec4<f32>();
    if (together > 1u) { b = value_quad(i + WG, first, last); }
    if (together > 2u) { c = value_quad(i + 2u * WG, first, last); }
    if (together > 3u) { d = value_quad(i + 3u * WG, first, last); }
    put_value(i, a);
    if (together > 1u) { put_value(i + WG, b); }
    if (together > 2u) { put_value(i + 2u * WG, c); }
    if (together > 3u) { put_value(i + 3u * WG, d); }
  }
}

fn value_quad(i: u32, first: u32, last: u32) -> vec4<f32> {
  return v_quad(min(first + i / (VALUE_BLOCKS * TC), last), min(i % (VALUE_BLOCKS * TC), D / 4u - 1u));
}

fn put_value(i: u32, x: vec4<f32>) {
  let key = i / (VALUE_BLOCKS * TC);
  if (key >= 4u * SLICE) { return; }
  let block = i / TC % VALUE_BLOCKS;
  let at = PIECE * (TR + 1u) + (block / 2u * SLICE + key / 4u) * (TC + 1u) + i % TC;
  factors[at][block % 2u * 4u + key % 4u] = x;
}

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let tokens = step.rows;
  let quads = D / 4u;
  let block_rows = 8u * TR;
  let blocks = (tokens * group_heads() + block_rows - 1u) / block_rows;
  if (group.y >= blocks) {
    return;
  }
  let kv_head = group.x;
  let row0 = (blocks - 1u - group.y) * block_rows;  // of the workgroup

  let cache = kv_head * kv_capacity();  // the head's first row
  let reach = seen_by_rows(token_of(row0, tokens), token_of(row0 + block_rows - 1u, tokens) + 1u);
  let begin = reach.x;
  let end = min(reach.y, kv_capacity());

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
  for (var tile = begin; tile < end; tile += tile_keys) {
    var s0 = Block();  // keys tile + 4 tc ..
    var s1 = Block();  // keys tile + 4 (tc + TC) ..
    for (var piece = 0u; piece < quads; piece += PIECE) {
      workgroupBarrier();
      bring_rows(lane, row0, kv_head, piece, tokens);
      bring_keys(lane, cache + tile, cache + end - 1u, piece);
      workgroupBarrier();
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
    if (KEY_BLOCKS > 1u) { s1 = all_capped(s1); }
    if (tile < reach.z || tile + tile_keys > reach.w) {
      s0 = all_shown(s0, key, row, tokens);
      if (KEY_BLOCKS > 1u) { s1 = all_shown(s1, key + 4u * TC, row, tokens); }
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
      if (KEY_BLOCKS == 1u || slice < TC) {
        if (tc - slice < SLICE) { write_rows((tc - slice) * (TR + 1u) + tr, s0); }
      } else {
        if (tc + TC - slice < SLICE) { write_rows((tc + TC - slice) * (TR + 1u) + tr, s1); }
      }
      bring_values(lane, cache + tile + 4u * slice, cache + end - 1u);
      workgroupBarrier();
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
  let share = Column(inverse(all.a), inverse(all.b));
  put_all(scaled(y0, share), row, kv_head, tc, tokens);
  if (VALUE_BLOCKS > 1u) { put_all(scaled(y1, share), row, kv_head, tc + TC, tokens); }
  if (VALUE_BLOCKS > 2u) { put_all(scaled(y2, share), row, kv_head, tc + 2u * TC, tokens); }
  if (VALUE_BLOCKS > 3u) { put_all(scaled(y3, share), row, kv_head, tc + 3u * TC, tokens); }
}
