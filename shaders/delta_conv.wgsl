// delta_conv.wgsl: what stands before the recurrence of a gated DeltaNet, from the stacked projections of a pass:
//   c = silu(causal depthwise convolution over time of q|k|v), the last tap on the row's own token;
//   q, k heads: x / sqrt(sum x^2 + 1e-6), q also / sqrt(DK); alpha = exp(-exp(a_log) softplus(a + dt_bias)), beta = sigmoid(b).
//   Yang et al. 2024, arXiv:2412.06464; the gates as in Mamba-2. Reference: tests/ops/test_delta.py
//
//   binding  name     type       shape                  access
//   0        proj     f32        [T, C + HV DV + 2 HV]  read         q|k|v (C = 2 HK DK + HV DV), z, b, a
//   1        weight   f32        [C, TAPS]              read
//   2        a_log    f32        [HV]                   read
//   3        dt_bias  f32        [HV]                   read
//   4        step     Step       -                      read
//   5        history  f32        [TAPS - 1, C]          read_write   the last rows of q|k|v; unread at position 0
//   6        mixed    f32        [T, C]                 write
//   7        gates    vec2<f32>  [T, HV]                write        (alpha, beta)
//
// Dispatch (2 HK + HV, ceil(T / ROWS), 1): a workgroup a head and ROWS rows. Only the first block of rows reads the
// history, and it is the one that replaces it, a channel a thread: so ROWS >= TAPS - 1 where there are more blocks.
// Rows behind step.rows do nothing. DK, DV <= 256. Library before it: step.

override HK: u32;
override HV: u32;
override DK: u32;
override DV: u32;
override TAPS: u32;
override ROWS: u32;

@group(0) @binding(0) var<storage, read> proj: array<f32>;
@group(0) @binding(1) var<storage, read> weight: array<f32>;
@group(0) @binding(2) var<storage, read> a_log: array<f32>;
@group(0) @binding(3) var<storage, read> dt_bias: array<f32>;
@group(0) @binding(4) var<storage, read> step: Step;
@group(0) @binding(5) var<storage, read_write> history: array<f32>;
@group(0) @binding(6) var<storage, read_write> mixed: array<f32>;
@group(0) @binding(7) var<storage, read_write> gates: array<vec2<f32>>;

const WG = 128u;
var<workgroup> squares: array<f32, WG>;

// Row i - (TAPS - 1) of this pass; the rows before it are the history.
fn input(i: u32, channel: u32, channels: u32) -> f32 {
  if (i >= TAPS - 1u) {
    return proj[(i + 1u - TAPS) * (channels + HV * DV + 2u * HV) + channel];
  }
  if (step.pos == 0u) { return 0.0; }
  return history[i * channels + channel];
}

fn sigmoid(v: f32) -> f32 { return 1.0 / (1.0 + exp(min(-v, 80.0))); }

// log(1 + exp(v)). WGSL's log is exact to 2^-21 only, which the small values would feel.
fn softplus(v: f32) -> f32 {
  let e = exp(max(-abs(v), -80.0));
  var tail = e * (1.0 - e * (0.5 - e * (0.33333333 - e * (0.25 - 0.2 * e))));
  if (e > 0.05) { tail = log(1.0 + e); }
  return max(v, 0.0) + tail;
}

fn convolved(row: u32, channel: u32, channels: u32) -> f32 {
  var sum = 0.0;
  for (var j = 0u; j < TAPS; j++) { sum += weight[channel * TAPS + j] * input(row + j, channel, channels); }
  return sum * sigmoid(sum);
}

@compute @workgroup_size(128)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let head = group.x;
  let first = group.y * ROWS;
  let rows = step.rows;
  if (first >= rows) {
    return;
  }
  let keys = 2u * HK * DK;
  let channels = keys + HV * DV;
  let is_key = head < 2u * HK;
  var width = DV;
  var base = keys + (head - 2u * HK) * DV;  // wraps for q and k, which do not use it
  if (is_key) {
    width = DK;
    base = head * DK;
  }
  for (var t = first; t < min(first + ROWS, rows); t++) {
    var low = 0.0;
    var high = 0.0;
    if (lane < width) { low = convolved(t, base + lane, channels); }
    if (lane + WG < width) { high = convolved(t, base + lane + WG, channels); }
    if (is_key) {
      squares[lane] = low * low + high * high;
      workgroupBarrier();
      for (var half = WG / 2u; half > 0u; half /= 2u) {
        var other = 0.0;
        if (lane < half) { other = squares[lane + half]; }
        workgroupBarrier();
        if (lane < half) { squares[lane] += other; }
        workgroupBarrier();
      }
      var factor = 1.0 / sqrt(squares[0] + 1e-6);
      workgroupBarrier();
      if (head < HK) { factor /= sqrt(f32(DK)); }
      low *= factor;
      high *= factor;
    } else if (lane == 0u) {
      let h = head - 2u * HK;
      let at = t * (channels + HV * DV + 2u * HV) + channels + HV * DV + h;
      let decay = exp(min(a_log[h], 80.0)) * softplus(proj[at + HV] + dt_bias[h]);
      gates[t * HV + h] = vec2<f32>(exp(max(-decay, -80.0)), sigmoid(proj[at]));
    }
    if (lane < width) { mixed[t * channels + base + lane] = low; }
    if (lane + WG < width) { mixed[t * channels + base + lane + WG] = high; }
  }
  if (group.y > 0u || step.halt != 0u) {
    return;
  }
  for (var c = lane; c < width; c += WG) {
    for (var j = 0u; j + 1u < TAPS; j++) {
      history[j * channels + base + c] = input(rows + j, base + c, channels);  // reads only rows behind j
    }
  }
}
