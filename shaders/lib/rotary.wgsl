// rotary.wgsl: a q or k head of the stacked projections, normed where the family norms it, and rotated:
//   (a, b) = (x[i], x[i + R/2]) -> (a cos - b sin, b cos + a sin) for i < R/2; the rest of a head passes.
//   NEIGHBOURS: pairs are (x[2 i], x[2 i + 1]). NORM_LAST: the norm stands behind the rotation. Q_GROWTH: the query at
//   position p is multiplied by 1 + Q_GROWTH ln(1 + floor(p / Q_PERIOD)) (Llama 4, Ministral 3).
//   Su et al. 2021, arXiv:2104.09864. cos and sin of position 64 a + b come by the addition theorem from two tables that
//   the CPU made, since WGSL's own may be off by 2^-11. PER_ROW: each row of the pass has its own angles instead.
//
// The kernel supplies: override D, and the variables qkv: array<vec4<f32>>, table: array<vec2<f32>> [A + 64, R/2],
// (cos, sin) at 64 a, then at b (its binding ends with it; not read when R is 0), or with PER_ROW of each row: [T, R/2];
// q_norm and k_norm: array<f32> [D].

override R: u32;  // rotated entries of a head, even, <= D; 0: none
override PER_ROW: bool = false;  // where a function takes a position to turn by, it is the row's number in the pass
override NEIGHBOURS: bool = false;
override NORM_LAST: bool = false;
override SCALE: f32 = 1.0;  // of q
override NORM_Q: bool = false;
override NORM_K: bool = false;
override EPS_Q: f32 = 1e-6;
override EPS_K: f32 = 1e-6;
override OFFSET_Q: f32 = 0.0;  // 1.0 for families whose checkpoints store weight - 1
override OFFSET_K: f32 = 0.0;
override Q_GROWTH: f32 = 0.0;
override Q_PERIOD: u32 = 1u;

// v, at entry i of a head, times its norm's weight.
fn times_weight(v: f32, i: u32, is_q: bool) -> f32 {
  if (is_q) {
    if (NORM_Q) { return v * (q_norm[i] + OFFSET_Q); }
    return v;
  }
  if (NORM_K) { return v * (k_norm[i] + OFFSET_K); }
  return v;
}

// Entry i of the head that begins at quad `base` of qkv, as it is rotated.
fn entry(base: u32, i: u32, is_q: bool) -> f32 {
  let v = qkv[base + i / 4u][i % 4u];
  if (NORM_LAST) { return v; }
  return times_weight(v, i, is_q);
}

// (cos, sin) of a pair's angle.
fn turn_of(pair: u32, pairs: u32, position: u32) -> vec2<f32> {
  if (PER_ROW) { return table[position * pairs + pair]; }
  let coarse = arrayLength(&table) / pairs - 64u;
  let c = table[min(position / 64u, coarse - 1u) * pairs + pair];
  let f = table[(coarse + position % 64u) * pairs + pair];
  return vec2<f32>(c.x * f.x - c.y * f.y, c.y * f.x + c.x * f.y);
}

fn rotated(base: u32, i: u32, is_q: bool, position: u32) -> f32 {
  let v = entry(base, i, is_q);
  if (i >= R) {
    return v;
  }
  let pairs = max(R / 2u, 1u);
  var pair = i;
  var other = i + pairs;  // the entry that i is rotated with
  var first = i < pairs;
  if (!first) {
    pair = i - pairs;
    other = pair;
  }
  if (NEIGHBOURS) {
    pair = i / 2u;
    other = i ^ 1u;
    first = i % 2u == 0u;
  }
  let turn = turn_of(pair, pairs, position);
  let b = entry(base, other, is_q) * turn.y;
  if (first) { return v * turn.x - b; }
  return v * turn.x + b;
}

// Quad `quad` of a head, but for the norm's weight (NORM_LAST) and the factor that follow.
fn rotated_quad(base: u32, quad: u32, is_q: bool, position: u32) -> vec4<f32> {
  let i = 4u * quad;
  return vec4<f32>(
    rotated(base, i, is_q, position), rotated(base, i + 1u, is_q, position),
    rotated(base, i + 2u, is_q, position), rotated(base, i + 3u, is_q, position));
}

// The squares that a norm sums: of `v` as it came, or as it was turned.
fn normed_square(v: vec4<f32>, turned: vec4<f32>) -> f32 {
  if (NORM_LAST) { return dot(turned, turned); }
  return dot(v, v);
}

// A quad behind the rotation, times what is left: the norm's weight (NORM_LAST), and the factor.
fn finished(v: vec4<f32>, quad: u32, is_q: bool, factor: f32) -> vec4<f32> {
  if (!NORM_LAST) { return v * factor; }
  let i = 4u * quad;
  return factor * vec4<f32>(
    times_weight(v.x, i, is_q), times_weight(v.y, i + 1u, is_q),
    times_weight(v.z, i + 2u, is_q), times_weight(v.w, i + 3u, is_q));
}

// What the norm divides by and q's scale, from the sum of the head's squares. A rotation leaves it to be applied last.
fn head_factor(squares: f32, is_q: bool, position: u32) -> f32 {
  if (is_q) {
    var scale = SCALE;
    if (Q_GROWTH != 0.0) { scale *= 1.0 + Q_GROWTH * log(f32(1u + position / Q_PERIOD)); }
    if (NORM_Q) { return scale / sqrt(squares / f32(D) + EPS_Q); }
    return scale;
  }
  if (NORM_K) { return 1.0 / sqrt(squares / f32(D) + EPS_K); }
  return 1.0;
}
