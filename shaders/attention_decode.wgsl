// attention_decode.wgsl: attention of one token from the stacked projections. It norms and rotates the heads, appends K
// and V, and computes softmax(q k^T) v of each split of the context, unnormalised, with its maximum and sum.
// attention_reduce.wgsl merges the splits.
//   Online softmax: Milakov & Gimelshein 2018, arXiv:1805.02867; split over keys: Flash-Decoding (Dao et al. 2023).
//   The maths of a head: lib/rotary.wgsl. Reference: tests/ops/test_attention.py
//
//   binding  name     type       shape                      access
//   0        qkv      vec4<f32>  [(H + 2 Hkv) D / 4]        read         GATED: [(2 H + 2 Hkv) D / 4], each q head before its gate
//   1        table    vec2<f32>  [A + 64, R/2]              read         lib/rotary
//   2        q_norm   f32        [D]                        read         dummy without NORM_Q
//   3        k_norm   f32        [D]                        read         dummy without NORM_K
//   4        step     Step       -                          read         keys 0 .. step.pos
//   5        k_cache  KvWord     lib/kv_f32                 read_write   row step.pos is written, unless halted
//   6        v_cache  KvWord     lib/kv_f32                 read_write
//   7        partial  vec4<f32>  [H, splits, D / 4 + 1]     write        sum of exp(score - m) v; then (l, m, -, -):
//                                                           l = sum of exp(score - m), m = maximum of the scores
//
// Dispatch (splits, Hkv * PARTS, 1): a workgroup takes G query heads of one kv head, so that K and V are read once for
// them. A split without keys writes nothing, and the reduction does not read it. Every workgroup that needs the current
// token's key and value takes them from qkv, rounded as the cache rounds them. One of these workgroups appends them, to
// rows that are not read in this pass.
// A team of LANES neighbouring threads takes two keys at a time, the next team the next; a thread has a pair of neighbouring
// quads, or two such pairs, of each key, of its value, and of all query heads in registers. The results of the teams are
// merged at the end.
// Libraries before it: step, a form of the cache (kv_f32, kv_pairs and kv_append_f32, or the same of q8 or f16; or kv_f16_wide
// and kv_append_f16_wide), attention_span, rotary, score_cap, team_workgroup or team_subgroup.

override D: u32;             // head size, a multiple of 4 up to 256
override HEADS_PER_KV: u32;  // H / Hkv
override HKV: u32;
override G: u32;             // query heads a workgroup, <= 8
override PARTS: u32;         // ceil(HEADS_PER_KV / G)
override GATED: bool = false;
override HEAD_LANES: u32;    // threads that prepare a head: (G + 1) HEAD_LANES <= WG
override HEAD_QUADS: u32;    // for each of them: ceil(HEAD / HEAD_LANES) <= 8
override LANES: u32;         // threads of a team, a power of two from 4 to 32
override QUADS: u32;         // for each of them: 4, with G > 4: 2
override HEAD: u32;          // LANES QUADS: a head's quads, and zeros behind them
override TEAMS: u32;         // WG / LANES; TILE is 2 TEAMS

const WG = 128u;
const GROWS = 8.0;  // weights are exp(score - maximum) up to exp(8): the maximum follows only greater scores

@group(0) @binding(0) var<storage, read> qkv: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> table: array<vec2<f32>>;
@group(0) @binding(2) var<storage, read> q_norm: array<f32>;
@group(0) @binding(3) var<storage, read> k_norm: array<f32>;
@group(0) @binding(4) var<storage, read> step: Step;
@group(0) @binding(5) var<storage, read_write> k_cache: array<KvWord>;
@group(0) @binding(6) var<storage, read_write> v_cache: array<KvWord>;
@group(0) @binding(7) var<storage, read_write> partial: array<vec4<f32>>;

// Queries [G, HEAD], then the current token's key and value, [2, 64]. Of the first 512: before, parts of the heads' squares;
// later what teams add up; at the end their accumulators, head by head.
var<workgroup> new_rows: array<vec4<f32>, 640>;
const KEY_AT = 512u;
const VALUE_AT = 576u;
var<workgroup> ends: array<vec4<f32>, 128>;  // [4, 32]: the teams' maxima and sums of heads 0 .. 3, then of 4 .. 7

// Registers are named one by one: compilers put arrays that loops index into slow memory. With QUADS = 2, c and d of a key
// or value are a and b once more, and those of a head g are a and b of head g + 4.
struct Raw { a: KvQuad, b: KvQuad, c: KvQuad, d: KvQuad }
struct Part { a: vec4<f32>, b: vec4<f32>, c: vec4<f32>, d: vec4<f32> }
struct Heads { g0: Part, g1: Part, g2: Part, g3: Part }
struct Scores { lo: vec4<f32>, hi: vec4<f32> }  // of heads 0 .. 3 and 4 .. 7

fn k_part(row: u32, member: u32) -> Raw {
  let x = k_pair(row, member);
  if (QUADS == 2u) { return Raw(x.a, x.b, x.a, x.b); }
  let y = k_pair(row, member + LANES);
  return Raw(x.a, x.b, y.a, y.b);
}

fn v_part(row: u32, member: u32) -> Raw {
  let x = v_pair(row, member);
  if (QUADS == 2u) { return Raw(x.a, x.b, x.a, x.b); }
  let y = v_pair(row, member + LANES);
  return Raw(x.a, x.b, y.a, y.b);
}

// The same of the current token's key, or value.
fn new_part(start: u32, member: u32) -> Raw {
  let last = D / 4u - 1u;
  let at = 2u * member;
  let a = kv_new(start, min(at, last));
  let b = kv_new(start, min(at + 1u, last));
  if (QUADS == 2u) { return Raw(a, b, a, b); }
  return Raw(a, b, kv_new(start, min(at + 2u * LANES, last)), kv_new(start, min(at + 2u * LANES + 1u, last)));
}

fn unpacked(raw: Raw) -> Part {
  return Part(kv_unpacked(raw.a), kv_unpacked(raw.b), kv_unpacked(raw.c), kv_unpacked(raw.d));
}

// Of query head g < G, and with QUADS = 2 of g + 4.
fn query_part(g: u32, member: u32) -> Part {
  let zero = vec4<f32>(0.0);
  let at = g * HEAD + 2u * member;
  let a = new_rows[at];
  let b = new_rows[at + 1u];
  if (QUADS == 4u) { return Part(a, b, new_rows[at + 2u * LANES], new_rows[at + 2u * LANES + 1u]); }
  if (g + 4u >= G) { return Part(a, b, zero, zero); }
  return Part(a, b, new_rows[at + 4u * HEAD], new_rows[at + 4u * HEAD + 1u]);
}

// Loops over heads stand before and behind the loop over keys, and reach registers through these two. Unrolled, they would
// read and write memory in four times as many places, which compilers take long for.
fn with_head(x: Heads, g: u32, part: Part) -> Heads {
  var y = x;
  if (g == 0u) {
    y.g0 = part;
  } else if (g == 1u) {
    y.g1 = part;
  } else if (g == 2u) {
    y.g2 = part;
  } else {
    y.g3 = part;
  }
  return y;
}

fn head_of(x: Heads, g: u32) -> Part {
  if (g == 0u) { return x.g0; }
  if (g == 1u) { return x.g1; }
  if (g == 2u) { return x.g2; }
  return x.g3;
}

fn products(q: Heads, k: Part) -> Scores {
  var lo = vec4<f32>(dot(q.g0.a, k.a) + dot(q.g0.b, k.b), 0.0, 0.0, 0.0);
  var hi = vec4<f32>(dot(q.g0.c, k.c) + dot(q.g0.d, k.d), 0.0, 0.0, 0.0);
  if (G > 1u) {
    lo.y = dot(q.g1.a, k.a) + dot(q.g1.b, k.b);
    hi.y = dot(q.g1.c, k.c) + dot(q.g1.d, k.d);
  }
  if (G > 2u) {
    lo.z = dot(q.g2.a, k.a) + dot(q.g2.b, k.b);
    hi.z = dot(q.g2.c, k.c) + dot(q.g2.d, k.d);
  }
  if (G > 3u) {
    lo.w = dot(q.g3.a, k.a) + dot(q.g3.b, k.b);
    hi.w = dot(q.g3.c, k.c) + dot(q.g3.d, k.d);
  }
  if (QUADS == 4u) { return Scores(lo + hi, hi); }
  return Scores(lo, hi);
}

fn scaled(p: Part, lo: f32, hi: f32) -> Part { return Part(p.a * lo, p.b * lo, p.c * hi, p.d * hi); }

fn all_scaled(x: Heads, by: Scores) -> Heads {
  var y = x;
  y.g0 = scaled(x.g0, by.lo.x, by.hi.x);
  if (G > 1u) { y.g1 = scaled(x.g1, by.lo.y, by.hi.y); }
  if (G > 2u) { y.g2 = scaled(x.g2, by.lo.z, by.hi.z); }
  if (G > 3u) { y.g3 = scaled(x.g3, by.lo.w, by.hi.w); }
  return y;
}

// x and two values by their weights.
fn more(x: Part, v: Part, lo: f32, hi: f32, w: Part, w_lo: f32, w_hi: f32) -> Part {
  return Part(x.a + lo * v.a + w_lo * w.a, x.b + lo * v.b + w_lo * w.b, x.c + hi * v.c + w_hi * w.c, x.d + hi * v.d + w_hi * w.d);
}

fn weights(score: vec4<f32>, maximum: vec4<f32>) -> vec4<f32> { return exp(max(score - maximum, vec4<f32>(-80.0))); }

@compute @workgroup_size(128)
fn main(
  @builtin(workgroup_id) group: vec3<u32>,
  @builtin(num_workgroups) grid: vec3<u32>,
  @builtin(local_invocation_index) lane: u32,
) {
  let quads = D / 4u;
  let span = attention_span(step.pos, grid.x);
  if (group.x >= span.splits) {
    return;
  }
  let kv_head = group.y / PARTS;
  let first_in_kv = group.y % PARTS * G;
  let n_heads = min(G, HEADS_PER_KV - first_in_kv);
  let head = kv_head * HEADS_PER_KV + first_in_kv;
  let cache = kv_head * kv_capacity();  // the head's first row
  let begin = span.first + group.x * span.length;
  let end = min(begin + span.length, span.end);
  let position = step.pos;
  // Keys from `position` on are not read from the cache: the current one is being written, the others are not there.
  var old_rows = position;
  if (position == 0u) { old_rows = 2u; }  // what the first token reads is not used

  // Each HEAD_LANES threads prepare a head: the query heads, and the key where this split has the current token.
  let has_current = position < end;
  let prepared = lane / HEAD_LANES;
  let is_q = prepared < G;
  var q_heads = HKV * HEADS_PER_KV;
  var place = head + prepared;
  if (GATED) {
    q_heads *= 2u;
    place *= 2u;
  }
  if (!is_q) { place = q_heads + kv_head; }
  let new_value = (q_heads + HKV + kv_head) * quads;
  let prepares = prepared < n_heads || (prepared == G && has_current);
  var turned: array<vec4<f32>, 8>;
  var square = 0.0;
  for (var n = 0u; n < HEAD_QUADS; n++) {
    let i = lane % HEAD_LANES + n * HEAD_LANES;
    turned[n] = vec4<f32>(0.0);
    if (prepares && i < quads) {
      let v = qkv[place * quads + i];
      turned[n] = rotated_quad(place * quads, i, is_q, position + step.shift);
      square += normed_square(v, turned[n]);
    }
  }
  new_rows[lane] = vec4<f32>(square);
  workgroupBarrier();
  square = 0.0;
  for (var i = 0u; i < HEAD_LANES; i++) { square += new_rows[prepared * HEAD_LANES + i].x; }
  let factor = head_factor(square, is_q, position);
  workgroupBarrier();
  for (var n = 0u; n < HEAD_QUADS; n++) {
    let i = lane % HEAD_LANES + n * HEAD_LANES;
    if (i < HEAD && is_q) {
      var query = vec4<f32>(0.0);
      if (i < quads) { query = finished(turned[n], i, true, factor); }
      new_rows[prepared * HEAD + i] = query;
    }
    if (i < quads && prepared == G && has_current) { new_rows[KEY_AT + i] = finished(turned[n], i, false, factor); }
  }
  if (has_current && lane < quads) { new_rows[VALUE_AT + lane] = qkv[new_value + lane]; }
  workgroupBarrier();
  if (KV_SPREADS) {
    var start = prepared * HEAD;
    if (!is_q) { start = KEY_AT; }
    for (var n = 0u; n < HEAD_QUADS; n++) {
      let i = lane % HEAD_LANES + n * HEAD_LANES;
      if (i < quads && prepared <= G) { turned[n] = kv_spread(start, i); }
    }
    workgroupBarrier();
    for (var n = 0u; n < HEAD_QUADS; n++) {
      let i = lane % HEAD_LANES + n * HEAD_LANES;
      if (i < quads && prepared <= G) { new_rows[start + i] = turned[n]; }
    }
    workgroupBarrier();
  }
  if (has_current && first_in_kv == 0u && step.halt == 0u && lane < quads) {
    k_put(cache + position, KEY_AT, lane);
    v_put(cache + position, VALUE_AT, lane);
  }

  let team = lane / LANES;
  let member = lane % LANES;
  let zero = vec4<f32>(0.0);
  let nothing = Part(zero, zero, zero, zero);
  var q = Heads(nothing, nothing, nothing, nothing);
  for (var g = 0u; g < min(G, 4u); g++) { q = with_head(q, g, query_part(g, member)); }
  var acc = Heads(nothing, nothing, nothing, nothing);
  var maximum = Scores(vec4<f32>(-1e30), vec4<f32>(-1e30));
  var sum = Scores(zero, zero);
  workgroupBarrier();  // the queries are in registers now

  var turn = 0u;
  for (var tile = begin; tile < end; tile += TILE) {
    let i = tile + team;
    let j = i + TEAMS;
    let row_i = cache + min(i, old_rows - 1u);
    let row_j = cache + min(j, old_rows - 1u);
    var k_i = k_part(row_i, member);
    var k_j = k_part(row_j, member);
    var v_i = v_part(row_i, member);
    var v_j = v_part(row_j, member);
    if (tile + TILE > position) {
      // The current key and value; zeros behind them.
      if (i >= position) { v_i = Raw(); }
      if (j >= position) { v_j = Raw(); }
      if (i == position || j == position) {
        let k = new_part(KEY_AT, member);
        let v = new_part(VALUE_AT, member);
        if (i == position) {
          k_i = k;
          v_i = v;
        } else {
          k_j = k;
          v_j = v;
        }
      }
    }
    let s = team_sums(products(q, unpacked(k_i)), products(q, unpacked(k_j)), lane, turn);
    turn = 1u - turn;
    var lo_i = capped(s.i.lo);
    var lo_j = capped(s.j.lo);
    var hi_i = lo_i;
    var hi_j = lo_j;
    if (QUADS == 2u) {
      hi_i = capped(s.i.hi);
      hi_j = capped(s.j.hi);
    }
    if (i >= end) {
      lo_i = vec4<f32>(-1e30);
      hi_i = lo_i;
    }
    if (j >= end) {
      lo_j = vec4<f32>(-1e30);
      hi_j = lo_j;
    }
    let top_lo = max(lo_i, lo_j);
    let top_hi = max(hi_i, hi_j);
    if (any(max(top_lo - maximum.lo, top_hi - maximum.hi) > vec4<f32>(GROWS))) {
      let now = Scores(max(top_lo, maximum.lo), max(top_hi, maximum.hi));
      let decay = Scores(weights(maximum.lo, now.lo), weights(maximum.hi, now.hi));
      maximum = now;
      sum = Scores(sum.lo * decay.lo, sum.hi * decay.hi);
      acc = all_scaled(acc, decay);
    }
    let p_i = weights(lo_i, maximum.lo);
    let p_j = weights(lo_j, maximum.lo);
    sum.lo += p_i + p_j;
    var r_i = p_i;
    var r_j = p_j;
    if (QUADS == 2u) {
      r_i = weights(hi_i, maximum.hi);
      r_j = weights(hi_j, maximum.hi);
      sum.hi += r_i + r_j;
    }
    let x = unpacked(v_i);
    let y = unpacked(v_j);
    acc.g0 = more(acc.g0, x, p_i.x, r_i.x, y, p_j.x, r_j.x);
    if (G > 1u) { acc.g1 = more(acc.g1, x, p_i.y, r_i.y, y, p_j.y, r_j.y); }
    if (G > 2u) { acc.g2 = more(acc.g2, x, p_i.z, r_i.z, y, p_j.z, r_j.z); }
    if (G > 3u) { acc.g3 = more(acc.g3, x, p_i.w, r_i.w, y, p_j.w, r_j.w); }
  }

  // The teams meet in workgroup memory: their maxima and sums, then the accumulators.
  if (member == 0u) {
    ends[team] = maximum.lo;
    ends[32u + team] = sum.lo;
    ends[64u + team] = maximum.hi;
    ends[96u + team] = sum.hi;
  }
  workgroupBarrier();
  var top = Scores(ends[0], ends[64]);
  for (var t = 1u; t < TEAMS; t++) {
    top.lo = max(top.lo, ends[t]);
    top.hi = max(top.hi, ends[64u + t]);
  }
  if (lane < n_heads) {
    // A thread a head.
    let at = lane / 4u * 64u;
    var most = top.lo[lane % 4u];
    if (lane >= 4u) { most = top.hi[lane % 4u]; }
    var total = 0.0;
    for (var t = 0u; t < TEAMS; t++) { total += ends[at + 32u + t][lane % 4u] * exp(max(ends[at + t][lane % 4u] - most, -80.0)); }
    partial[((head + lane) * grid.x + group.x) * (quads + 1u) + quads] = vec4<f32>(total, most, 0.0, 0.0);
  }
  var share = Scores(weights(maximum.lo, top.lo), weights(maximum.hi, top.hi));
  if (QUADS == 4u) { share.hi = share.lo; }
  acc = all_scaled(acc, share);
  let here = Place(head, n_heads, grid.x, group.x, lane);
  for (var g = 0u; g < min(G, 4u); g++) { merge(here, g, head_of(acc, g)); }
}

struct Place { head: u32, heads: u32, splits: u32, split: u32, lane: u32 }

// Add up the teams' accumulators of head g, and with QUADS = 2 of head g + 4, and write them.
fn merge(at: Place, g: u32, part: Part) {
  let quads = D / 4u;
  workgroupBarrier();  // whoever still reads what was here
  let to = at.lane / LANES * HEAD + 2u * (at.lane % LANES);
  new_rows[to] = part.a;
  new_rows[to + 1u] = part.b;
  var behind = to + 2u * LANES;
  if (QUADS == 2u) { behind = to + 256u; }
  new_rows[behind] = part.c;
  new_rows[behind + 1u] = part.d;
  workgroupBarrier();
  for (var i = at.lane; i < quads * (4u / QUADS); i += WG) {
    let h = g + i / quads * 4u;
    let quad = i % quads;
    if (h < at.heads) {
      var total = vec4<f32>(0.0);
      for (var t = 0u; t < TEAMS; t += 2u) {
        let from_team = i / quads * 256u + t * HEAD + quad;
        total += new_rows[from_team] + new_rows[from_team + HEAD];
      }
      partial[((at.head + h) * at.splits + at.split) * (quads + 1u) + quad] = total;
    }
  }
}
