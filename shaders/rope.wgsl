// rope.wgsl: from the stacked projections to attention's inputs, in one dispatch: RMSNorm of each q and k head (where
// the family has it), rotary positions, the attention scale on q, k and v appended to the cache.
//   Rotation: (a, b) = (x[i], x[i + R/2]) -> (a cos - b sin, b cos + a sin) for i < R/2; the rest of a head passes.
//   Su et al. 2021, arXiv:2104.09864. cos and sin of position 64 a + b come by the addition theorem from two tables that
//   the CPU made, since WGSL's own may be off by 2^-11. Reference: tests/ops/test_rope.py
//
//   binding  name           type       shape                  access
//   0        qkv            f32        [T, (H + 2 Hkv) D]     read         GATED: [T, (2 H + 2 Hkv) D], each q head before its gate
//   1        table          vec2<f32>  [A + 64, R/2]          read         (cos, sin) at 64 a, then at b
//   2        q_norm         f32        [D]                    read         dummy without NORM_Q
//   3        k_norm         f32        [D]                    read         dummy without NORM_K
//   4        step           Step       -                      read
//   5        q              f32        [T, H, D]              write
//   6        k_cache        KvQuad     [Hkv, context, D / 4]  read_write   row step.pos + t; nothing while halted
//   7        v_cache        KvQuad     [Hkv, context, D / 4]  read_write
//
// Dispatch (H + 2 Hkv, T, 1): a workgroup a head; rows behind step.rows do nothing. D <= 256, a multiple of 4.
// The bindings of table and caches end where they end: the context is read from their lengths, so that growing the
// cache needs no new pipeline. Libraries before it: step, kv_f32 or kv_f16.

override D: u32;
override H: u32;
override HKV: u32;
override R: u32;              // rotated entries of a head, even, <= D
override SCALE: f32 = 1.0;    // of q
override NORM_Q: bool = false;
override NORM_K: bool = false;
override EPS_Q: f32 = 1e-6;
override EPS_K: f32 = 1e-6;
override OFFSET_Q: f32 = 0.0;
override OFFSET_K: f32 = 0.0;
override GATED: bool = false;  // the gates of q heads are left to attention

@group(0) @binding(0) var<storage, read> qkv: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> table: array<vec2<f32>>;
@group(0) @binding(2) var<storage, read> q_norm: array<f32>;
@group(0) @binding(3) var<storage, read> k_norm: array<f32>;
@group(0) @binding(4) var<storage, read> step: Step;
@group(0) @binding(5) var<storage, read_write> q: array<vec4<f32>>;
@group(0) @binding(6) var<storage, read_write> k_cache: array<KvQuad>;
@group(0) @binding(7) var<storage, read_write> v_cache: array<KvQuad>;

const WG = 64u;  // a lane a quad: D <= 256
var<workgroup> values: array<f32, 256>;
var<workgroup> squares: array<f32, WG>;

// Element i of the head in `values`, rotated.
fn rotated(i: u32, position: u32) -> f32 {
  if (i >= R) {
    return values[i];
  }
  let pairs = R / 2u;
  var pair = i;
  if (i >= pairs) { pair = i - pairs; }
  let coarse = arrayLength(&table) / pairs - 64u;
  let c = table[min(position / 64u, coarse - 1u) * pairs + pair];
  let f = table[(coarse + position % 64u) * pairs + pair];
  let cosine = c.x * f.x - c.y * f.y;
  let sine = c.y * f.x + c.x * f.y;
  if (i < pairs) {
    return values[i] * cosine - values[i + pairs] * sine;
  }
  return values[i] * cosine + values[pair] * sine;
}

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let head = group.x;
  let t = group.y;
  if (t >= step.rows) {
    return;
  }
  let quads = D / 4u;
  let position = step.pos + t;
  var v = vec4<f32>(0.0);
  if (lane < quads) {
    var heads = H + 2u * HKV;
    var place = head;
    if (GATED) {
      heads += H;
      place = head + min(head, H);
    }
    v = qkv[(t * heads + place) * quads + lane];
  }
  if (head < H + HKV) {
    let is_q = head < H;
    if ((is_q && NORM_Q) || (!is_q && NORM_K)) {
      squares[lane] = dot(v, v);
      workgroupBarrier();
      for (var half = WG / 2u; half > 0u; half /= 2u) {
        var other = 0.0;
        if (lane < half) { other = squares[lane + half]; }
        workgroupBarrier();
        if (lane < half) { squares[lane] += other; }
        workgroupBarrier();
      }
      let mean = squares[0] / f32(D);
      if (lane < quads) {
        let at = 4u * lane;
        if (is_q) {
          let w = vec4<f32>(q_norm[at], q_norm[at + 1u], q_norm[at + 2u], q_norm[at + 3u]);
          v *= (w + OFFSET_Q) / sqrt(mean + EPS_Q);
        } else {
          let w = vec4<f32>(k_norm[at], k_norm[at + 1u], k_norm[at + 2u], k_norm[at + 3u]);
          v *= (w + OFFSET_K) / sqrt(mean + EPS_K);
        }
      }
    }
    if (lane < quads) {
      values[4u * lane] = v.x;
      values[4u * lane + 1u] = v.y;
      values[4u * lane + 2u] = v.z;
      values[4u * lane + 3u] = v.w;
    }
    workgroupBarrier();
    if (lane < quads) {
      let at = 4u * lane;
      v = vec4<f32>(
        rotated(at, position), rotated(at + 1u, position), rotated(at + 2u, position), rotated(at + 3u, position));
    }
  }
  if (lane >= quads) {
    return;
  }
  if (head < H) {
    q[(t * H + head) * quads + lane] = v * SCALE;
    return;
  }
  let context = arrayLength(&k_cache) / (HKV * quads);
  if (step.halt != 0u || position >= context) {
    return;
  }
  if (head < H + HKV) {
    k_cache[((head - H) * context + position) * quads + lane] = kv_store(v);
  } else {
    v_cache[((head - H - HKV) * context + position) * quads + lane] = kv_store(v);
  }
}
