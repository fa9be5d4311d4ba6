// delta_step.wgsl: a gated DeltaNet between its projections for one token, in one dispatch: per value head
//   q, k, v = silu(causal depthwise convolution over time), q and k / sqrt(sum x^2 + 1e-6), q also / sqrt(DK);
//   S <- alpha S; d = beta (v - S^T k); S <- S + k d^T; o = S^T q;
//   y = o / sqrt(mean(o^2) + EPS) * norm_weight * silu(z).
//   Yang et al. 2024, arXiv:2412.06464; the gates alpha, beta as in lib/delta_input.wgsl. Reference: tests/ops/test_delta.py
//
//   binding  name         type       shape                  access
//   0        proj         f32        [1, C + HV DV + 2 HV]  read         q|k|v (C = 2 HK DK + HV DV), z, b, a
//   1        weight       f32        [C, TAPS]              read
//   2        decay        f32        [2, HV]                read         a_log, dt_bias
//   3        norm_weight  f32        [DV]                   read
//   4        step         Step       -                      read
//   5        history      f32        [TAPS, C]              read_write   q|k|v of position p at p % TAPS
//   6        state        vec4<f32>  [HV, DV, DK / 4]       read_write   S by columns; taken as zero at position 0
//   7        y            f32        [1, HV DV]             write
//
// Dispatch (HV, 1, 1): a workgroup a value head; DK, DV multiples of 4 up to 256. All value heads that share a key head
// convolve its q and k. The first of them writes q and k into the history, at a place that is not read in this pass.
// 8 threads share a column of S, which they hold in registers, COLUMNS columns at a time; both products with S are taken
// before its update, S^T q = alpha (S_old^T q) + (k . q) d. The lengths of q and k are applied to the products.
// History and state do not change while step.halt is set. Libraries before it: step, delta_input, causal_conv.

override HK: u32;
override HV: u32;
override DK: u32;
override DV: u32;
override TAPS: u32;
override EPS: f32 = 1e-6;
override QUADS: u32;    // of a column for each of its threads: ceil(DK / 32)
override COLUMNS: u32;  // of a thread at a time: at most 4, and QUADS * COLUMNS <= 16

@group(0) @binding(0) var<storage, read> proj: array<f32>;
@group(0) @binding(1) var<storage, read> weight: array<f32>;
@group(0) @binding(2) var<storage, read> decay: array<f32>;
@group(0) @binding(3) var<storage, read> norm_weight: array<f32>;
@group(0) @binding(4) var<storage, read> step: Step;
@group(0) @binding(5) var<storage, read_write> history: array<f32>;
@group(0) @binding(6) var<storage, read_write> state: array<vec4<f32>>;
@group(0) @binding(7) var<storage, read_write> y: array<f32>;

const WG = 256u;
const LANES = 8u;
const SIDE = 32u;    // columns side by side: WG / LANES
const PITCH = 132u;  // 4 SIDE, and 4 against bank conflicts

var<workgroup> mixed: array<f32, 768>;            // q|k|v of this head
var<workgroup> gates: vec2<f32>;                  // (alpha, beta)
var<workgroup> lengths: array<vec3<f32>, LANES>;  // parts of (k . k, q . q, k . q)
var<workgroup> products: array<vec2<f32>, 1056>;  // [LANES, PITCH]: parts of (S^T k, S^T q)
var<workgroup> steps: array<f32, 128>;            // d / |k| of each column
var<workgroup> outputs: array<f32, WG>;           // o
var<workgroup> squares: array<f32, SIDE>;         // parts of sum o^2

fn mixed_quad(at: u32) -> vec4<f32> {
  return vec4<f32>(mixed[at], mixed[at + 1u], mixed[at + 2u], mixed[at + 3u]);
}

// Where channel c of this head's q|k|v stands among all channels.
fn channel_of(head: u32, c: u32) -> u32 {
  let key_head = head / (HV / HK);
  if (c < DK) { return key_head * DK + c; }
  if (c < 2u * DK) { return (HK + key_head) * DK + c - DK; }
  return 2u * HK * DK + head * DV + c - 2u * DK;
}

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
  let head = group.x;
  let quads = DK / 4u;
  let lane = thread % LANES;
  let side = thread / LANES;
  let home = head * DV * quads;

  // S first, and whatever the position: nothing that must be read before stands in the way of the largest reads.
  var s: array<vec4<f32>, 16>;
  for (var c = 0u; c < COLUMNS; c++) {
    for (var i = 0u; i < QUADS; i++) {
      let column = c * SIDE + side;
      let quad = i * LANES + lane;
      s[c * QUADS + i] = vec4<f32>(0.0);
      if (column < DV && quad < quads) { s[c * QUADS + i] = state[home + column * quads + quad]; }
    }
  }
  let own = min(thread, DV - 1u);
  let z = proj[channels() + head * DV + own];
  let w = norm_weight[own];
  let size = 2u * DK + DV;
  for (var c = thread; c < size; c += WG) { mixed[c] = silu(convolved(0u, channel_of(head, c))); }
  if (thread == WG - 1u) {
    let found = gates_of(0u, head);
    gates = vec2<f32>(exp(found.x), found.y);
  }
  workgroupBarrier();

  var k: array<vec4<f32>, 8>;
  var q: array<vec4<f32>, 8>;
  var length = vec3<f32>(0.0);
  for (var i = 0u; i < QUADS; i++) {
    let quad = i * LANES + lane;
    k[i] = vec4<f32>(0.0);
    q[i] = vec4<f32>(0.0);
    if (quad < quads) {
      q[i] = mixed_quad(4u * quad);
      k[i] = mixed_quad(DK + 4u * quad);
    }
    length += vec3<f32>(dot(k[i], k[i]), dot(q[i], q[i]), dot(k[i], q[i]));
  }
  if (side == 0u) { lengths[lane] = length; }
  let alpha = gates.x;
  for (var first = 0u; first < DV; first += COLUMNS * SIDE) {
    if (first > 0u) {
      for (var c = 0u; c < COLUMNS; c++) {
        for (var i = 0u; i < QUADS; i++) {
          let column = first + c * SIDE + side;
          let quad = i * LANES + lane;
          if (column < DV && quad < quads) { s[c * QUADS + i] = state[home + column * quads + quad]; }
        }
      }
    }
    if (step.pos == 0u) {
      for (var i = 0u; i < COLUMNS * QUADS; i++) { s[i] = vec4<f32>(0.0); }
    }
    for (var c = 0u; c < COLUMNS; c++) {
      var part = vec2<f32>(0.0);
      for (var i = 0u; i < QUADS; i++) {
        part += vec2<f32>(dot(s[c * QUADS + i], k[i]), dot(s[c * QUADS + i], q[i]));
      }
      products[lane * PITCH + c * SIDE + side] = part;
    }
    workgroupBarrier();
    if (thread < COLUMNS * SIDE && first + thread < DV) {
      var total = vec2<f32>(0.0);
      var all = vec3<f32>(0.0);
      for (var i = 0u; i < LANES; i++) {
        total += products[i * PITCH + thread];
        all += lengths[i];
      }
      let by_k = 1.0 / sqrt(all.x + 1e-6);
      let by_q = 1.0 / (sqrt(all.y + 1e-6) * sqrt(f32(DK)));
      let d = gates.y * (mixed[2u * DK + first + thread] - alpha * by_k * total.x);
      steps[thread] = by_k * d;
      outputs[first + thread] = by_q * (alpha * total.y + by_k * all.z * d);
    }
    workgroupBarrier();
    if (step.halt == 0u) {
      for (var c = 0u; c < COLUMNS; c++) {
        let d = steps[c * SIDE + side];
        let column = first + c * SIDE + side;
        for (var i = 0u; i < QUADS; i++) {
          let quad = i * LANES + lane;
          if (column < DV && quad < quads) {
            state[home + column * quads + quad] = alpha * s[c * QUADS + i] + d * k[i];
          }
        }
      }
    }
  }

  if (thread < SIDE) {
    var sum = 0.0;
    for (var i = thread; i < DV; i += SIDE) { sum += outputs[i] * outputs[i]; }
    squares[thread] = sum;
  }
  workgroupBarrier();
  if (thread < DV) {
    var sum = 0.0;
    for (var i = 0u; i < SIDE; i++) { sum += squares[i]; }
    y[head * DV + thread] = outputs[thread] / sqrt(sum / f32(DV) + EPS) * w * silu(z);
  }
  for (var c = thread; c < size; c += WG) {
    if (c >= 2u * DK || head % (HV / HK) == 0u) { remember(channel_of(head, c)); }
  }
}
