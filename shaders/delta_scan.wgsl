// delta_scan.wgsl: the recurrence of a gated DeltaNet, token after token, for decode and prefill alike:
//   S <- alpha S; d = beta (v - S^T k); S <- S + k d^T; o = S^T q.   Yang et al. 2024, arXiv:2412.06464.
//   Reference: tests/ops/test_delta.py
//
//   binding  name   type       shape                       access
//   0        mixed  vec4<f32>  [T, (2 HK DK + HV DV) / 4]  read         q|k|v from delta_conv.wgsl
//   1        gates  vec2<f32>  [T, HV]                     read         (alpha, beta)
//   2        step   Step       -                           read
//   3        state  vec4<f32>  [HV, DV, DK / 4]            read_write   S by columns; unread at position 0
//   4        y      f32        [T, HV DV]                  write        rows behind step.rows are left
//
// Dispatch (ceil(DV / 16), HV, 1). Columns of S need nothing of each other, so a workgroup has 16 of them, 8 threads a
// column, each with its share of the column in registers: how a prompt was cut into passes changes no bit of the result.
// Both products with S are taken before its update, S^T q = alpha (S_old^T q) + (k . q) d, so that a token costs one
// barrier. DK <= 256; DK and DV are multiples of 4. Library before it: step.

override HK: u32;
override HV: u32;
override DK: u32;
override DV: u32;

@group(0) @binding(0) var<storage, read> mixed: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> gates: array<vec2<f32>>;
@group(0) @binding(2) var<storage, read> step: Step;
@group(0) @binding(3) var<storage, read_write> state: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read_write> y: array<f32>;

const WG = 128u;
const LANES = 8u;
const MOST = 8u;                                     // quads of a thread: DK <= 256
var<workgroup> partial: array<vec4<f32>, 256>;       // two turns of WG: (S^T k, S^T q, k . q)

@compute @workgroup_size(128)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
  let quads = DK / 4u;
  let head = group.y;
  let key_head = head / (HV / HK);
  let lane = thread % LANES;
  let column = group.x * (WG / LANES) + thread / LANES;
  let mine = column < DV;
  let width = (2u * HK * DK + HV * DV) / 4u;
  let rows = step.rows;
  let home = (head * DV + min(column, DV - 1u)) * quads;
  let values = 2u * HK * DK + head * DV + min(column, DV - 1u);

  var s: array<vec4<f32>, MOST>;
  var k: array<vec4<f32>, MOST>;
  var next_k: array<vec4<f32>, MOST>;  // the next token's, read before the barrier so that they come meanwhile
  var next_q: array<vec4<f32>, MOST>;
  for (var i = 0u; i < MOST; i++) {
    let quad = lane + LANES * i;
    s[i] = vec4<f32>(0.0);
    k[i] = vec4<f32>(0.0);
    next_k[i] = vec4<f32>(0.0);
    next_q[i] = vec4<f32>(0.0);
    if (mine && quad < quads && step.pos > 0u) { s[i] = state[home + quad]; }
    if (quad < quads) {
      next_q[i] = mixed[key_head * quads + quad];
      next_k[i] = mixed[(HK + key_head) * quads + quad];
    }
  }
  var next_v = mixed[values / 4u][values % 4u];
  var next_gate = gates[head];
  for (var t = 0u; t < rows; t++) {
    var sums = vec4<f32>(0.0);
    let row = min(t + 1u, rows - 1u) * width;
    for (var i = 0u; i < MOST; i++) {
      let quad = lane + LANES * i;
      if (quad < quads) {
        let q = next_q[i];
        k[i] = next_k[i];
        next_q[i] = mixed[row + key_head * quads + quad];
        next_k[i] = mixed[row + (HK + key_head) * quads + quad];
        sums += vec4<f32>(dot(s[i], k[i]), dot(s[i], q), dot(k[i], q), 0.0);
      }
    }
    let v = next_v;
    let gate = next_gate;
    next_v = mixed[row + values / 4u][values % 4u];
    next_gate = gates[min(t + 1u, rows - 1u) * HV + head];
    let turn = (t % 2u) * WG;  // a thread may write the next token's sums while others still read these
    partial[turn + thread] = sums;
    workgroupBarrier();
    var total = vec4<f32>(0.0);
    for (var i = 0u; i < LANES; i++) { total += partial[turn + thread - lane + i]; }
    let d = gate.y * (v - gate.x * total.x);
    for (var i = 0u; i < MOST; i++) { s[i] = gate.x * s[i] + d * k[i]; }
    if (mine && lane == 0u) { y[(t * HV + head) * DV + column] = gate.x * total.y + d * total.z; }
  }
  if (!mine || step.halt != 0u) {
    return;
  }
  for (var i = 0u; i < MOST; i++) {
    let quad = lane + LANES * i;
    if (quad < quads) { state[home + quad] = s[i]; }
  }
}
