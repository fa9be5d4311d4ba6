// rope.wgsl: from the stacked projections of a chunk to attention's inputs, in one dispatch: RMSNorm of each q and k head
// (where the family has it), rotary positions (where the layer has them), the attention scale on q; k and v appended to the cache.
//   The maths of a head: lib/rotary.wgsl. Reference: tests/ops/test_rope.py
//
//   binding  name           type       shape                    access
//   0        qkv            vec4<f32>  [T, (H + 2 Hkv) D / 4]   read         GATED: [T, (2 H + 2 Hkv) D / 4], each q head before its gate
//   1        table          vec2<f32>  [A + 64, R/2]            read         lib/rotary; PER_ROW: [T, R/2]
//   2        q_norm         f32        [D]                      read         dummy without NORM_Q
//   3        k_norm         f32        [D]                      read         dummy without NORM_K
//   4        step           Step       -                        read
//   5        q              Quad       [T, H, D / 4]            write
//   6        k_cache        KvWord     lib/kv_f32               read_write   row step.pos + t; nothing while halted
//   7        v_cache        KvWord     lib/kv_f32               read_write
//
// Dispatch (H + 2 Hkv, T, 1): a workgroup a head; rows from step.rows on do nothing. D <= 256, a multiple of 4.
// Libraries before it: step, kv_f32 and kv_append_f32 or another form of both, quad_f32 or
// quad_f16, rotary, tree_sum.

override WG: u32;  // threads, a multiple of 16 up to 64: at least one for each quad of a head
override D: u32;
override H: u32;
override HKV: u32;
override GATED: bool = false;  // the gates of q heads are left to attention

@group(0) @binding(0) var<storage, read> qkv: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> table: array<vec2<f32>>;
@group(0) @binding(2) var<storage, read> q_norm: array<f32>;
@group(0) @binding(3) var<storage, read> k_norm: array<f32>;
@group(0) @binding(4) var<storage, read> step: Step;
@group(0) @binding(5) var<storage, read_write> q: array<Quad>;
@group(0) @binding(6) var<storage, read_write> k_cache: array<KvWord>;
@group(0) @binding(7) var<storage, read_write> v_cache: array<KvWord>;

var<workgroup> new_rows: array<vec4<f32>, 64>;  // the head's row, of which the cache may store a quad with its neighbours

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let head = group.x;
  let t = group.y;
  if (t >= step.rows) {
    return;
  }
  let quads = D / 4u;
  let position = step.pos + t;
  var angle = position + step.shift;
  if (PER_ROW) { angle = t; }
  let is_q = head < H;
  var heads = H + 2u * HKV;
  var place = head;
  if (GATED) {
    heads += H;
    place = head + min(head, H);
  }
  let base = (t * heads + place) * quads;
  var v = vec4<f32>(0.0);
  if (lane < quads) { v = qkv[base + lane]; }
  if (head < H + HKV) {
    var turned = vec4<f32>(0.0);
    if (lane < quads) { turned = rotated_quad(base, lane, is_q, angle); }
    var sum = 0.0;
    if ((is_q && NORM_Q) || (!is_q && NORM_K)) { sum = tree_sum(lane, normed_square(v, turned)); }
    if (lane < quads) { v = finished(turned, lane, is_q, head_factor(sum, is_q, position)); }
  }
  new_rows[lane] = v;
  workgroupBarrier();
  if (KV_SPREADS && head < H + HKV) {
    v = kv_spread(0u, min(lane, quads - 1u));
    workgroupBarrier();
    new_rows[lane] = v;
    workgroupBarrier();
  }
  if (lane >= quads) {
    return;
  }
  if (is_q) {
    q[(t * H + head) * quads + lane] = quad_store(v);
    return;
  }
  let context = kv_capacity();
  if (step.halt != 0u || position >= context) {
    return;
  }
  if (head < H + HKV) {
    k_put((head - H) * context + position, 0u, lane);
  } else {
    v_put((head - H - HKV) * context + position, 0u, lane);
  }
}
