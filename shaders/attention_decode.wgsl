// attention_decode.wgsl: attention of one token from the stacked projections: head norms and rotary positions, K and V
// appended, and, split over the context, softmax(q k^T) v of a run of keys, unnormalised, with its maximum and sum, for
// attention_reduce.wgsl to merge.
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
// token's key and value takes them from qkv, rounded as the cache rounds them; one of them appends them, to rows that
// nobody reads in this pass.
// Libraries before it: step, kv_f32 and kv_append_f32 or another form of both, attention_span,
// rotary, score_cap.

override D: u32;             // head size, a multiple of 4 up to 256
override HEADS_PER_KV: u32;  // H / Hkv
override HKV: u32;
override G: u32;             // query heads a workgroup, <= MAX_G
override PARTS: u32;         // ceil(HEADS_PER_KV / G)
override GATED: bool = false;
override HEAD_LANES: u32;    // threads that prepare a head: (G + 1) HEAD_LANES <= WG
override HEAD_QUADS: u32;    // for each of them: ceil(D / 4 / HEAD_LANES) <= 8

const WG = 128u;
const MAX_G = 8u;
const SUBS = 4u;  // threads that share one key's dot products

@group(0) @binding(0) var<storage, read> qkv: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> table: array<vec2<f32>>;
@group(0) @binding(2) var<storage, read> q_norm: array<f32>;
@group(0) @binding(3) var<storage, read> k_norm: array<f32>;
@group(0) @binding(4) var<storage, read> step: Step;
@group(0) @binding(5) var<storage, read_write> k_cache: array<KvWord>;
@group(0) @binding(6) var<storage, read_write> v_cache: array<KvWord>;
@group(0) @binding(7) var<storage, read_write> partial: array<vec4<f32>>;

var<workgroup> queries: array<vec4<f32>, 512>;  // [G, D / 4]; at the end the accumulators of 4 heads
var<workgroup> new_rows: array<vec4<f32>, 128>; // [2, D / 4]: key and value of the current token, as they are appended
var<workgroup> dots: array<f32, 1024>;          // [SUBS, G, TILE]; before, parts of the heads' squares; at the end the sums
var<workgroup> scores: array<vec4<f32>, 64>;    // [G, TILE / 4]
var<workgroup> weights: array<vec4<f32>, 64>;   // [G, TILE / 4]: exp(score - maximum)
var<workgroup> decays: array<f32, MAX_G>;       // exp(old maximum - new one)

// Row `i` of the cache, or for the current token's another one: its own is being written, and taken from elsewhere.
fn old_row(i: u32, position: u32) -> u32 {
  if (i != position) { return i; }
  if (i == 0u) { return 1u; }
  return i - 1u;
}

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

  // Each HEAD_LANES threads prepare a head: the query heads, and the key where this split has the current token.
  let position = step.pos;
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
  dots[lane] = square;
  workgroupBarrier();
  square = 0.0;
  for (var i = 0u; i < HEAD_LANES; i++) { square += dots[prepared * HEAD_LANES + i]; }
  let factor = head_factor(square, is_q, position);
  for (var n = 0u; n < HEAD_QUADS; n++) {
    let i = lane % HEAD_LANES + n * HEAD_LANES;
    if (i < quads && is_q) { queries[prepared * quads + i] = finished(turned[n], i, true, factor); }
    if (i < quads && prepared == G && has_current) { new_rows[i] = finished(turned[n], i, false, factor); }
  }
  if (has_current && lane < quads) { new_rows[quads + lane] = qkv[new_value + lane]; }
  workgroupBarrier();
  if (has_current && first_in_kv == 0u && step.halt == 0u && lane < quads) {
    k_put(cache + position, 0u, lane);
    v_put(cache + position, quads, lane);
  }

  // Threads 0 .. 8 G - 1 keep the softmax of (head, 4 keys of the tile).
  let my_head = lane / 8u;
  let my_keys = lane % 8u * 4u;
  let keeps = my_head < G;
  var maximum = -1e30;
  var sum = 0.0;
  // All threads accumulate: a quad of D, every `slices`-th key.
  let slices = WG / quads;
  let quad = lane % quads;
  let slice = lane / quads;
  var fresh = vec4<f32>(0.0);
  if (has_current) { fresh = kv_kept(quads, quad); }
  var acc: array<vec4<f32>, MAX_G>;
  for (var g = 0u; g < G; g++) { acc[g] = vec4<f32>(0.0); }

  for (var tile = begin; tile < end; tile += TILE) {
    let key = lane / SUBS;
    let sub = lane % SUBS;
    var dot_g: array<f32, MAX_G>;
    for (var g = 0u; g < G; g++) { dot_g[g] = 0.0; }
    if (tile + key < end) {
      let row = cache + old_row(tile + key, position);
      let is_new = tile + key == position;
      // Four loads at a time, since each that is used at once is waited for alone.
      for (var i = sub; i < quads; i += 4u * SUBS) {
        let i1 = min(i + SUBS, quads - 1u);
        let i2 = min(i + 2u * SUBS, quads - 1u);
        let i3 = min(i + 3u * SUBS, quads - 1u);
        var k0 = k_quad(row, i);
        var k1 = k_quad(row, i1);
        var k2 = k_quad(row, i2);
        var k3 = k_quad(row, i3);
        if (is_new) {
          k0 = kv_kept(0u, i);
          k1 = kv_kept(0u, i1);
          k2 = kv_kept(0u, i2);
          k3 = kv_kept(0u, i3);
        }
        if (i + SUBS >= quads) { k1 = vec4<f32>(0.0); }
        if (i + 2u * SUBS >= quads) { k2 = vec4<f32>(0.0); }
        if (i + 3u * SUBS >= quads) { k3 = vec4<f32>(0.0); }
        for (var g = 0u; g < G; g++) {
          let q = g * quads;
          dot_g[g] += dot(k0, queries[q + i]) + dot(k1, queries[q + i1]) + dot(k2, queries[q + i2]) + dot(k3, queries[q + i3]);
        }
      }
    }
    for (var g = 0u; g < G; g++) { dots[(sub * G + g) * TILE + key] = dot_g[g]; }
    workgroupBarrier();

    if (keeps) {
      let at = my_head * TILE + my_keys;
      var s = vec4<f32>(0.0);
      for (var i = 0u; i < SUBS; i++) {
        let from_sub = i * G * TILE + at;
        s += vec4<f32>(dots[from_sub], dots[from_sub + 1u], dots[from_sub + 2u], dots[from_sub + 3u]);
      }
      s = capped(s);
      let left = end - tile;  // keys of this tile
      if (my_keys >= left) { s.x = -1e30; }
      if (my_keys + 1u >= left) { s.y = -1e30; }
      if (my_keys + 2u >= left) { s.z = -1e30; }
      if (my_keys + 3u >= left) { s.w = -1e30; }
      scores[my_head * 8u + lane % 8u] = s;
    }
    workgroupBarrier();

    if (keeps) {
      var highest = scores[my_head * 8u];
      for (var i = 1u; i < 8u; i++) { highest = max(highest, scores[my_head * 8u + i]); }
      let now = max(maximum, max(max(highest.x, highest.y), max(highest.z, highest.w)));
      let decay = exp(max(maximum - now, -80.0));
      let p = exp(max(scores[my_head * 8u + lane % 8u] - now, vec4<f32>(-80.0)));
      maximum = now;
      sum = sum * decay + p.x + p.y + p.z + p.w;
      weights[my_head * 8u + lane % 8u] = p;
      if (lane % 8u == 0u) { decays[my_head] = decay; }
    }
    workgroupBarrier();

    if (slice < slices) {
      for (var g = 0u; g < G; g++) { acc[g] *= decays[g]; }
      let last = min(TILE, end - tile) - 1u;
      for (var i = slice; i <= last; i += 4u * slices) {
        let i1 = min(i + slices, last);
        let i2 = min(i + 2u * slices, last);
        let i3 = min(i + 3u * slices, last);
        var v0 = v_quad(cache + old_row(tile + i, position), quad);
        var v1 = v_quad(cache + old_row(tile + i1, position), quad);
        var v2 = v_quad(cache + old_row(tile + i2, position), quad);
        var v3 = v_quad(cache + old_row(tile + i3, position), quad);
        if (tile + i == position) { v0 = fresh; }
        if (tile + i1 == position) { v1 = fresh; }
        if (tile + i2 == position) { v2 = fresh; }
        if (tile + i3 == position) { v3 = fresh; }
        if (i + slices > last) { v1 = vec4<f32>(0.0); }
        if (i + 2u * slices > last) { v2 = vec4<f32>(0.0); }
        if (i + 3u * slices > last) { v3 = vec4<f32>(0.0); }
        for (var g = 0u; g < G; g++) {
          let w = g * 8u;
          acc[g] += weights[w + i / 4u][i % 4u] * v0 + weights[w + i1 / 4u][i1 % 4u] * v1
            + weights[w + i2 / 4u][i2 % 4u] * v2 + weights[w + i3 / 4u][i3 % 4u] * v3;
        }
      }
    }
  }

  if (keeps) { dots[lane] = sum; }
  workgroupBarrier();
  if (keeps && lane % 8u == 0u && my_head < n_heads) {
    var total = 0.0;
    for (var i = 0u; i < 8u; i++) { total += dots[lane + i]; }
    let row = (head + my_head) * grid.x + group.x;
    partial[row * (quads + 1u) + quads] = vec4<f32>(total, maximum, 0.0, 0.0);
  }
  // The slices' accumulators meet in workgroup memory, four heads at a time.
  for (var g0 = 0u; g0 < G; g0 += 4u) {
    for (var g = g0; g < min(g0 + 4u, G); g++) { queries[(g - g0) * WG + lane] = acc[g]; }
    workgroupBarrier();
    for (var i = lane; i < 4u * quads; i += WG) {
      let g = i / quads;
      if (g0 + g < n_heads) {
        var total = vec4<f32>(0.0);
        for (var j = 0u; j < slices; j++) { total += queries[g * WG + j * quads + i % quads]; }
        let row = (head + g0 + g) * grid.x + group.x;
        partial[row * (quads + 1u) + i % quads] = total;
      }
    }
    workgroupBarrier();
  }
}
