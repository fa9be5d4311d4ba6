// rotary.wgsl: a q or k head of the stacked projections, normed where the family norms it, and rotated:
//   (a, b) = (x[i], x[i + R/2]) -> (a cos - b sin, b cos + a sin) for i < R/2; the rest of a head passes.
//   Su et al. 2021, arXiv:2104.09864. cos and sin of position 64 a + b come by the addition theorem from two tables that
//   the CPU made, since WGSL's own may be off by 2^-11. PER_ROW: each row of the pass has its own angles instead.
//
// The kernel supplies: override D, and the variables qkv: array<vec4<f32>>, table: array<vec2<f32>> [A + 64, R/2],
// (cos, sin) at 64 a, then at b (its binding ends with it), or with PER_ROW of each row: [T, R/2]; q_norm and k_norm: array<f32> [D].

override PER_ROW: bool = false;  // `position` is the row's number in the pass
override R: u32;  // rotated entries of a head, even, <= D
override SCALE: f32 = 1.0;  // of q
override NORM_Q: bool = false;
override NORM_K: bool = false;
override EPS_Q: f32 = 1e-6;
override EPS_K: f32 = 1e-6;
override OFFSET_Q: f32 = 0.0;  // 1.0 for families whose checkpoints store weight - 1
override OFFSET_K: f32 = 0.0;

// Entry i of the head that begins at quad `base` of qkv, times its norm's weight.
fn weighted(base: u32, i: u32, is_q: bool) -> f32 {
  let v = qkv[base + i / 4u][i % 4u];
  if (is_q) {
    if (NORM_Q) { return v * (q_norm[i] + OFFSET_Q); }
    return v;
  }
  if (NORM_K) { return v * (k_norm[i] + OFFSET_K); }
  return v;
}

fn rotated(base: u32, i: u32, is_q: bool, position: u32) -> f32 {
  let v = weighted(base, i, is_q);
  if (i >= R) {
    return v;
  }
  let pairs = R / 2u;
  var pair = i;
  if (i >= pairs) { pair = i - pairs; }
  var cosine = 0.0;
  var sine = 0.0;
  if (PER_ROW) {
    let turn = table[position * pairs + pair];
    cosine = turn.x;
    sine = turn.y;
  } else {
    let coarse = arrayLength(&table) / pairs - 64u;
    let c = table[min(position / 64u, coarse - 1u) * pairs + pair];
    let f = table[(coarse + position % 64u) * pairs + pair];
    cosine = c.x * f.x - c.y * f.y;
    sine = c.y * f.x + c.x * f.y;
  }
  if (i < pairs) {
    return v * cosine - weighted(base, i + pairs, is_q) * sine;
  }
  return v * cosine + weighted(base, pair, is_q) * sine;
}

// Quad `quad` of a head, but for the factor that follows.
fn rotated_quad(base: u32, quad: u32, is_q: bool, position: u32) -> vec4<f32> {
  let i = 4u * quad;
  return vec4<f32>(
    rotated(base, i, is_q, position), rotated(base, i + 1u, is_q, position),
    rotated(base, i + 2u, is_q, position), rotated(base, i + 3u, is_q, position));
}

// What the norm divides by and q's scale, from the sum of the head's squares. A rotation leaves it to be applied last.
fn head_factor(squares: f32, is_q: bool) -> f32 {
  if (is_q) {
    if (NORM_Q) { return SCALE / sqrt(squares / f32(D) + EPS_Q); }
    return SCALE;
  }
  if (NORM_K) { return 1.0 / sqrt(squares / f32(D) + EPS_K); }
  return 1.0;
}
