// rotate_rows.wgsl: heads of stacked projections made ready for attention in place, where there is no KV cache (encoders,
// towers): RMSNorm of each q and k head (where the family has it), rotary positions, the attention scale on q; NORM_V norms
// the heads of v too, without weights.
//   The maths of a head: lib/rotary.wgsl; of v: v / sqrt(mean(v^2) + EPS_V). Reference: tests/ops/test_rotate_rows.py
//
//   binding  name       type       shape                    access
//   0        table      vec2<f32>  [A + 64, R/2]            read         lib/rotary; PER_ROW: [>= T, R/2]
//   1        positions  u32        [>= T]                   read         dummy with PER_ROW
//   2        q_norm     f32        [D]                      read         dummy without NORM_Q
//   3        k_norm     f32        [D]                      read         dummy without NORM_K
//   4        step       Step       -                        read
//   5        rows       vec4<f32>  [T, (H + 2 Hkv) D / 4]   read_write
//
// Dispatch (H + Hkv, or with NORM_V H + 2 Hkv, T, 1): a workgroup a head; rows from step.rows on do nothing. D <= 256, a
// multiple of 4. Libraries before it: step, rotary, tree_sum.

override WG: u32;  // threads, a multiple of 16 up to 64: at least one for each quad of a head
override D: u32;
override H: u32;
override HKV: u32;
override NORM_V: bool = false;
override EPS_V: f32 = 1e-6;

@group(0) @binding(0) var<storage, read> table: array<vec2<f32>>;
@group(0) @binding(1) var<storage, read> positions: array<u32>;
@group(0) @binding(2) var<storage, read> q_norm: array<f32>;
@group(0) @binding(3) var<storage, read> k_norm: array<f32>;
@group(0) @binding(4) var<storage, read> step: Step;
@group(0) @binding(5) var<storage, read_write> rows: array<vec4<f32>>;

var<workgroup> qkv: array<vec4<f32>, 64>;  // the head as it was, from which every lane takes the pairs of its entries

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let head = group.x;
  let t = group.y;
  if (t >= step.rows) {
    return;
  }
  let quads = D / 4u;
  let place = (t * (H + 2u * HKV) + head) * quads + lane;
  var v = vec4<f32>(0.0);
  if (lane < quads) { v = rows[place]; }
  if (head >= H + HKV) {
    let factor = 1.0 / sqrt(tree_sum(lane, dot(v, v)) / f32(D) + EPS_V);
    if (lane < quads) { rows[place] = v * factor; }
    return;
  }
  qkv[lane] = v;
  workgroupBarrier();
  var position = t;
  if (!PER_ROW) { position = positions[t]; }
  let is_q = head < H;
  var turned = vec4<f32>(0.0);
  if (lane < quads) { turned = rotated_quad(0u, lane, is_q, position); }
  var sum = 0.0;
  if ((is_q && NORM_Q) || (!is_q && NORM_K)) { sum = tree_sum(lane, normed_square(v, turned)); }
  if (lane < quads) { rows[place] = finished(turned, lane, is_q, head_factor(sum, is_q, position)); }
}
