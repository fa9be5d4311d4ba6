// delta_rows.wgsl: the recurrence of a gated DeltaNet, token after token, on a state in registers:
//   S <- alpha S; d = beta (v - S^T k); S <- S + k d^T; o = S^T q.   Yang et al. 2024, arXiv:2412.06464.
//
// A workgroup of 128 has 16 columns of S, 8 threads a column: thread `lane` of a column has its quads lane, lane + 8, ...
// Both products with S are taken before its update, S^T q = alpha (S_old^T q) + (k . q) d, so that a token costs one
// barrier.
//
// The kernel supplies: overrides HK, HV, DK, DV; const MOST, the quads of a thread; the variables mixed [T, (2 HK DK +
// HV DV) / 4] (q|k|v), gates [T, HV] (log alpha, beta), y [T, HV DV], step; workgroup memory pool, at least 256 quads.

const LANES = 8u;
const SCANNING = 128u;  // threads of the workgroup

fn width() -> u32 { return (2u * HK * DK + HV * DV) / 4u; }

// Rows first .. end - 1 of column `column` of a head. Called by all threads, in uniform control flow.
fn scan_rows(s: ptr<function, array<vec4<f32>, MOST>>, first: u32, end: u32, head: u32, column: u32, thread: u32) {
  if (first >= end) {
    return;
  }
  let quads = DK / 4u;
  let key_head = head / (HV / HK);
  let lane = thread % LANES;
  let mine = column < DV;
  let values = 2u * HK * DK + head * DV + min(column, DV - 1u);
  var k: array<vec4<f32>, MOST>;
  var next_k: array<vec4<f32>, MOST>;  // the next token's, read before the barrier so that they come meanwhile
  var next_q: array<vec4<f32>, MOST>;
  for (var i = 0u; i < MOST; i++) {
    let quad = lane + LANES * i;
    k[i] = vec4<f32>(0.0);
    next_k[i] = vec4<f32>(0.0);
    next_q[i] = vec4<f32>(0.0);
    if (quad < quads) {
      next_q[i] = mixed[first * width() + key_head * quads + quad];
      next_k[i] = mixed[first * width() + (HK + key_head) * quads + quad];
    }
  }
  var next_v = mixed[first * width() + values / 4u][values % 4u];
  var next_gate = gates[first * HV + head];
  for (var t = first; t < end; t++) {
    var sums = vec4<f32>(0.0);
    let next = min(t + 1u, end - 1u);
    for (var i = 0u; i < MOST; i++) {
      let quad = lane + LANES * i;
      if (quad < quads) {
        let q = next_q[i];
        k[i] = next_k[i];
        next_q[i] = mixed[next * width() + key_head * quads + quad];
        next_k[i] = mixed[next * width() + (HK + key_head) * quads + quad];
        sums += vec4<f32>(dot((*s)[i], k[i]), dot((*s)[i], q), dot(k[i], q), 0.0);
      }
    }
    let v = next_v;
    let alpha = exp(next_gate.x);
    let beta = next_gate.y;
    next_v = mixed[next * width() + values / 4u][values % 4u];
    next_gate = gates[next * HV + head];
    let turn = (t % 2u) * SCANNING;  // a thread may write the next token's sums while others still read these
    pool[turn + thread] = sums;
    workgroupBarrier();
    var total = vec4<f32>(0.0);
    for (var i = 0u; i < LANES; i++) { total += pool[turn + thread - lane + i]; }
    let d = beta * (v - alpha * total.x);
    for (var i = 0u; i < MOST; i++) { (*s)[i] = alpha * (*s)[i] + d * k[i]; }
    if (mine && lane == 0u) { y[(t * HV + head) * DV + column] = alpha * total.y + d * total.z; }
  }
}
