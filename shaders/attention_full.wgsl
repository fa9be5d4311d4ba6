// attention_full.wgsl: attention without a causal mask. A row sees the keys of its own span: a whole text, one of
//   several texts in a pass, a window to both sides, or another sequence (cross-attention).
//   FlashAttention's tiling with online softmax (Dao et al. 2022, arXiv:2205.14135). Reference: tests/ops/test_attention_full.py
//
//   binding  name   type       shape                    access
//   0        q      vec4<f32>  rows of Q_STRIDE quads   read    head h of row t from quad t * Q_STRIDE + Q_AT + h * D/4 on
//   1        k      Quad       rows of K_STRIDE quads   read    head g of key j from quad j * K_STRIDE + K_AT + g * K_HEAD on
//   2        v      Quad       rows of V_STRIDE quads   read    likewise
//   3        spans  vec2<u32>  [T]                      read    row t sees keys spans[t].x .. spans[t].y - 1; none: y is 0
//   4        step   Step       -                        read    step.rows of the T rows are valid
//   5        y      vec4<f32>  [T, H, D / 4]            write   rows from step.rows on are not changed
//
// Dispatch (ceil(T / BQ), H, 1): a workgroup takes BQ rows of one head and goes over the keys that any of them sees in tiles
// of KT. K goes through workgroup memory (read by key, used by quad); V is read once by each group of 4 rows, in order.
// Keys between the spans of two rows, which neither of them sees, may hold any values.
// On GPUs, passes of many rows over themselves go through attention_prefill.wgsl or attention_prefill_units.wgsl instead, whose
// tiles are larger (ops/attention_full.py). This kernel is for few rows, which those would keep waiting for one dispatch more,
// keys that stand elsewhere, heads beyond 256, and software adapters, which compile large tiles for long.
// Libraries before it: step, quad_f32 or quad_f16, attention_spans.

override D: u32;             // head size, a multiple of 4 up to 512
override H: u32;
override HEADS_PER_KV: u32;
override Q_STRIDE: u32;
override Q_AT: u32 = 0u;
override K_STRIDE: u32;
override K_HEAD: u32;
override K_AT: u32 = 0u;
override V_STRIDE: u32;
override V_HEAD: u32;
override V_AT: u32 = 0u;
override SCALE: f32 = 1.0;      // of the scores
override BQ: u32;            // query rows: 32, 16, 8 or 4; BQ * D <= 2048
override KT: u32;            // keys a tile: 512 / BQ
override PIECE: u32;         // quads of K in workgroup memory at a time; divides D / 4, PIECE * (KT + 1) <= 528

const WG = 128u;

@group(0) @binding(0) var<storage, read> q: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> k: array<Quad>;
@group(0) @binding(2) var<storage, read> v: array<Quad>;
@group(0) @binding(3) var<storage, read> spans: array<vec2<u32>>;
@group(0) @binding(4) var<storage, read> step: Step;
@group(0) @binding(5) var<storage, read_write> y: array<vec4<f32>>;

var<workgroup> keys: array<vec4<f32>, 528>;     // [PIECE, KT + 1]: the odd stride keeps memory banks apart
var<workgroup> scores: array<vec4<f32>, WG>;    // [KT, BQ / 4], a vec4 is 4 rows; at the end the sums
var<workgroup> weights: array<vec4<f32>, WG>;   // [KT, BQ / 4]: exp(score - maximum)
var<workgroup> decays: array<vec4<f32>, 8>;     // [BQ / 4]: exp(old maximum - new one)

fn within(key: u32, span: vec2<u32>) -> bool {
  return span.x <= key && key < span.y;
}

@compute @workgroup_size(128)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let quads = D / 4u;
  let row0 = group.x * BQ;
  let rows = step.rows;
  if (row0 >= rows) {
    return;
  }
  let head = group.y;
  let k_at = K_AT + head / HEADS_PER_KV * K_HEAD;
  let v_at = V_AT + head / HEADS_PER_KV * V_HEAD;
  let q_at = Q_AT + head * quads;
  let row_groups = BQ / 4u;

  let reach = seen_by_rows(row0, min(row0 + BQ, rows));
  let begin = reach.x;
  let end = reach.y;

  // Scores: a thread has one key of the tile and 4 rows. Rows behind the end repeat the last; they are not written.
  let key = lane % KT;
  let row_group = lane / KT;
  let row = row0 + 4u * row_group;
  let r0 = min(row, rows - 1u);
  let r1 = min(row + 1u, rows - 1u);
  let r2 = min(row + 2u, rows - 1u);
  let r3 = min(row + 3u, rows - 1u);
  let b0 = seen_by(r0);
  let b1 = seen_by(r1);
  let b2 = seen_by(r2);
  let b3 = seen_by(r3);
  let q0 = r0 * Q_STRIDE + q_at;
  let q1 = r1 * Q_STRIDE + q_at;
  let q2 = r2 * Q_STRIDE + q_at;
  let q3 = r3 * Q_STRIDE + q_at;
  var maximum = vec4<f32>(-1e30);
  var sum = vec4<f32>(0.0);
  // Values: a thread has one quad of D and 4 rows.
  let quad = lane % quads;
  let value_group = lane / quads;
  var acc0 = vec4<f32>(0.0);
  var acc1 = vec4<f32>(0.0);
  var acc2 = vec4<f32>(0.0);
  var acc3 = vec4<f32>(0.0);

  for (var tile = begin; tile < end; tile += KT) {
    var s = vec4<f32>(0.0);
    for (var piece = 0u; piece < quads; piece += PIECE) {
      workgroupBarrier();
      for (var i = lane; i < KT * PIECE; i += WG) {
        let from_key = i / PIECE;
        let from_quad = i % PIECE;
        var loaded = vec4<f32>(0.0);
        if (tile + from_key < end) { loaded = quad_load(k[(tile + from_key) * K_STRIDE + k_at + piece + from_quad]); }
        keys[from_quad * (KT + 1u) + from_key] = loaded;
      }
      workgroupBarrier();
      for (var i = 0u; i < PIECE; i++) {
        let kq = keys[i * (KT + 1u) + key];
        let at = piece + i;
        s += vec4<f32>(dot(q[q0 + at], kq), dot(q[q1 + at], kq), dot(q[q2 + at], kq), dot(q[q3 + at], kq));
      }
    }
    s *= SCALE;
    let j = tile + key;
    let sees = vec4<bool>(within(j, b0), within(j, b1), within(j, b2), within(j, b3));
    if (!sees.x) { s.x = -1e30; }
    if (!sees.y) { s.y = -1e30; }
    if (!sees.z) { s.z = -1e30; }
    if (!sees.w) { s.w = -1e30; }
    scores[key * row_groups + row_group] = s;
    workgroupBarrier();

    var now = maximum;
    for (var i = 0u; i < KT; i++) { now = max(now, scores[i * row_groups + row_group]); }
    let decay = exp(max(maximum - now, vec4<f32>(-80.0)));
    // A row that has seen no key yet has maximum -1e30 too, and exp(0) = 1 there: hidden keys are set to 0 by name.
    var p = exp(max(s - now, vec4<f32>(-80.0)));
    if (!sees.x) { p.x = 0.0; }
    if (!sees.y) { p.y = 0.0; }
    if (!sees.z) { p.z = 0.0; }
    if (!sees.w) { p.w = 0.0; }
    maximum = now;
    sum = sum * decay + p;
    weights[key * row_groups + row_group] = p;
    if (key == 0u) { decays[row_group] = decay; }
    workgroupBarrier();

    if (value_group < row_groups) {
      let d = decays[value_group];
      acc0 *= d.x;
      acc1 *= d.y;
      acc2 *= d.z;
      acc3 *= d.w;
      for (var i = 0u; i < min(KT, end - tile); i++) {
        let p4 = weights[i * row_groups + value_group];
        if (any(p4 > vec4<f32>(0.0))) {  // a key that none of the four sees may hold anything
          let value = quad_load(v[(tile + i) * V_STRIDE + v_at + quad]);
          acc0 += p4.x * value;
          acc1 += p4.y * value;
          acc2 += p4.z * value;
          acc3 += p4.w * value;
        }
      }
    }
  }

  workgroupBarrier();
  scores[key * row_groups + row_group] = sum;
  workgroupBarrier();
  if (value_group < row_groups) {
    var total = vec4<f32>(0.0);
    for (var i = 0u; i < KT; i++) { total += scores[i * row_groups + value_group]; }
    total = max(total, vec4<f32>(1e-30));  // a row that sees nothing gives 0
    let out_row = row0 + 4u * value_group;
    let at = (out_row * H + head) * quads + quad;
    if (out_row < rows) { y[at] = acc0 / total.x; }
    if (out_row + 1u < rows) { y[at + H * quads] = acc1 / total.y; }
    if (out_row + 2u < rows) { y[at + 2u * H * quads] = acc2 / total.z; }
    if (out_row + 3u < rows) { y[at + 3u * H * quads] = acc3 / total.w; }
  }
}
