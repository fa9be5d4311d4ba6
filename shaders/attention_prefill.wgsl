// attention_prefill.wgsl: causal attention of a chunk of tokens over the cache, which holds the chunk already.
//   FlashAttention's tiling with online softmax (Dao et al. 2022, arXiv:2205.14135). Reference: tests/ops/test_attention.py
//
//   binding  name     type       shape                  access
//   0        q        vec4<f32>  [T, H, D / 4]          read    already scaled
//   1        k_cache  KvWord     lib/kv_f32             read
//   2        v_cache  KvWord     lib/kv_f32             read
//   3        step     Step       -                      read    row t stands at position step.pos + t
//   4        y        vec4<f32>  [T, H, D / 4]          write   rows behind step.rows are left as they are
//   5        gates    vec4<f32>  lib/attention_gate     read    dummy without GATE
//
// Dispatch (ceil(T / BQ), H, 1): a workgroup takes BQ rows of one head and goes over the keys they see in tiles of KT.
// K goes through workgroup memory (read by key, used by quad); V is read once by each group of 4 rows, in order.
// Libraries before it: step, kv_f32 or another form, attention_gate, score_cap.

override D: u32;             // head size, a multiple of 4 up to 256
override H: u32;
override HKV: u32;
override WINDOW: u32 = 0u;   // key j is visible to query i when i - WINDOW < j <= i; 0: all j <= i
override BQ: u32;            // query rows: 32, 16 or 8; BQ * D <= 2048
override KT: u32;            // keys a tile: 512 / BQ
override PIECE: u32;         // quads of K in workgroup memory at a time; divides D / 4, PIECE * (KT + 1) <= 528

const WG = 128u;

@group(0) @binding(0) var<storage, read> q: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> k_cache: array<KvWord>;
@group(0) @binding(2) var<storage, read> v_cache: array<KvWord>;
@group(0) @binding(3) var<storage, read> step: Step;
@group(0) @binding(4) var<storage, read_write> y: array<vec4<f32>>;
@group(0) @binding(5) var<storage, read> gates: array<vec4<f32>>;

var<workgroup> keys: array<vec4<f32>, 528>;     // [PIECE, KT + 1]: the odd stride keeps memory banks apart
var<workgroup> scores: array<vec4<f32>, WG>;    // [KT, BQ / 4], a vec4 is 4 rows; at the end the sums
var<workgroup> weights: array<vec4<f32>, WG>;   // [KT, BQ / 4]: exp(score - maximum)
var<workgroup> decays: array<vec4<f32>, 8>;     // [BQ / 4]: exp(old maximum - new one)

// Whether the query at `position` sees `key`.
fn visible(key: u32, position: u32) -> bool {
  return key <= position && (WINDOW == 0u || key + WINDOW > position);
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
  let context = kv_capacity();
  let cache = head / (H / HKV) * context;  // the head's first row
  let row_groups = BQ / 4u;

  let end = min(step.pos + min(row0 + BQ, rows), context);
  var begin = 0u;
  if (WINDOW > 0u && step.pos + row0 + 1u > WINDOW) { begin = step.pos + row0 + 1u - WINDOW; }

  // Scores: a thread has one key of the tile and 4 rows.
  let key = lane % KT;
  let row_group = lane / KT;
  let row = row0 + 4u * row_group;
  let position = step.pos + row;
  let q0 = (min(row, rows - 1u) * H + head) * quads;  // rows behind the end repeat the last; they are not written
  let q1 = (min(row + 1u, rows - 1u) * H + head) * quads;
  let q2 = (min(row + 2u, rows - 1u) * H + head) * quads;
  let q3 = (min(row + 3u, rows - 1u) * H + head) * quads;
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
        var k = vec4<f32>(0.0);
        if (tile + from_key < end) { k = k_quad(cache + tile + from_key, piece + from_quad); }
        keys[from_quad * (KT + 1u) + from_key] = k;
      }
      workgroupBarrier();
      for (var i = 0u; i < PIECE; i++) {
        let k = keys[i * (KT + 1u) + key];
        let at = piece + i;
        s += vec4<f32>(dot(q[q0 + at], k), dot(q[q1 + at], k), dot(q[q2 + at], k), dot(q[q3 + at], k));
      }
    }
    s = capped(s);
    let j = tile + key;
    let inside = j < end;
    let sees = vec4<bool>(
      inside && visible(j, position), inside && visible(j, position + 1u),
      inside && visible(j, position + 2u), inside && visible(j, position + 3u));
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
      let last = end - 1u;  // keys behind the end have weight 0; the last one stands in for them
      for (var i = 0u; i < KT; i += 4u) {
        let v0 = v_quad(cache + min(tile + i, last), quad);
        let v1 = v_quad(cache + min(tile + i + 1u, last), quad);
        let v2 = v_quad(cache + min(tile + i + 2u, last), quad);
        let v3 = v_quad(cache + min(tile + i + 3u, last), quad);
        let p0 = weights[i * row_groups + value_group];
        let p1 = weights[(i + 1u) * row_groups + value_group];
        let p2 = weights[(i + 2u) * row_groups + value_group];
        let p3 = weights[(i + 3u) * row_groups + value_group];
        acc0 += p0.x * v0 + p1.x * v1 + p2.x * v2 + p3.x * v3;
        acc1 += p0.y * v0 + p1.y * v1 + p2.y * v2 + p3.y * v3;
        acc2 += p0.z * v0 + p1.z * v1 + p2.z * v2 + p3.z * v3;
        acc3 += p0.w * v0 + p1.w * v1 + p2.w * v2 + p3.w * v3;
      }
    }
  }

  scores[key * row_groups + row_group] = sum;
  workgroupBarrier();
  if (value_group < row_groups) {
    var total = vec4<f32>(0.0);
    for (var i = 0u; i < KT; i++) { total += scores[i * row_groups + value_group]; }
    let out_row = row0 + 4u * value_group;
    let at = (out_row * H + head) * quads + quad;
    if (out_row < rows) { y[at] = gated(acc0 / total.x, out_row, head, quad); }
    if (out_row + 1u < rows) { y[at + H * quads] = gated(acc1 / total.y, out_row + 1u, head, quad); }
    if (out_row + 2u < rows) { y[at + 2u * H * quads] = gated(acc2 / total.z, out_row + 2u, head, quad); }
    if (out_row + 3u < rows) { y[at + 3u * H * quads] = gated(acc3 / total.w, out_row + 3u, head, quad); }
  }
}
