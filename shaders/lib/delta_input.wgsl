// delta_input.wgsl: what stands before the recurrence of a gated DeltaNet: the causal depthwise convolution over time of
// q|k|v with silu, and the gates.
//
// The kernel supplies: overrides HK, HV, DK, DV, TAPS, and the variables proj [T, C + HV DV + 2 HV] (q|k|v, z, b, a;
// C = 2 HK DK + HV DV), weight [C, TAPS], decay [2, HV] (a_log, dt_bias), history [TAPS, C], all f32, and step.
// Library after it: causal_conv.

fn channels() -> u32 { return 2u * HK * DK + HV * DV; }

fn width() -> u32 { return channels() + HV * DV + 2u * HV; }

fn input(row: u32, channel: u32) -> f32 { return proj[row * width() + channel]; }

fn tap(channel: u32, j: u32) -> f32 { return weight[channel * TAPS + j]; }

fn silu(v: f32) -> f32 { return v * sigmoid(v); }

fn sigmoid(v: f32) -> f32 { return 1.0 / (1.0 + exp(min(-v, 80.0))); }

// log(1 + exp(v)). WGSL's log is exact to 2^-21 only, which the small values would feel.
fn softplus(v: f32) -> f32 {
  let e = exp(max(-abs(v), -80.0));
  var tail = e * (1.0 - e * (0.5 - e * (0.33333333 - e * (0.25 - 0.2 * e))));
  if (e > 0.05) { tail = log(1.0 + e); }
  return max(v, 0.0) + tail;
}

// (log alpha, beta) of a value head: alpha is how much of its state stays, beta how much of the correction is made.
fn gates_of(row: u32, head: u32) -> vec2<f32> {
  let at = row * width() + channels() + HV * DV + head;
  let rate = exp(min(decay[head], 80.0)) * softplus(proj[at + HV] + decay[HV + head]);
  return vec2<f32>(max(-rate, -80.0), sigmoid(proj[at]));
}
