// matvec_conv.wgsl: LFM2's gated short convolution behind its in_proj, instead of matvec_out.wgsl: rows of W are [B; C; X],
//   u = B * X, y = C * (causal depthwise convolution over time of u, + bias). After: causal_conv.
//   A row group has the three rows of a channel, so nobody else touches the channel's history.
//
//   binding  name     type  shape                       access
//   4        bias     f32   [BIAS_OFFSET + N (BIAS)]    read         then, at TAPS_AT: taps [N / 3, TAPS], bias [N / 3] (BIAS)
//   7        history  f32   [TAPS, N / 3]               read_write   u of position p at p % TAPS
//
// The kernel supplies: overrides N, LANES, OUTPUTS, Y_OFFSET, BIAS, with_bias(value, row), total(i), vars bias, step, y.

override TAPS: u32;
override TAPS_AT: u32 = 0u;

@group(0) @binding(7) var<storage, read_write> history: array<f32>;

var<private> gated_input: f32;  // u

var<private> held: f32;         // the taps on earlier tokens

fn channels() -> u32 { return N / 3u; }

fn input(row: u32, channel: u32) -> f32 { return gated_input; }

fn tap(channel: u32, j: u32) -> f32 { return bias[TAPS_AT + channel * TAPS + j]; }

// Before the products, for the value that this lane will put: what does not depend on them.
fn hold(channel: u32) {
  if (channel < channels()) { held = earlier(0u, channel); }
}

// Channel `channel` of y, the i-th of this row group; `factor` is the norm's.
fn put(channel: u32, i: u32, factor: f32) {
  if (channel >= channels()) {
    return;
  }
  let b = with_bias(total(i) * factor, channel);
  let c = with_bias(total(i + OUTPUTS) * factor, channel + channels());
  let x = with_bias(total(i + 2u * OUTPUTS) * factor, channel + 2u * channels());
  gated_input = b * x;
  if (OUTPUTS > LANES) { hold(channel); }  // there are more than this lane's first
  var sum = held + tap(channel, TAPS - 1u) * gated_input;
  if (BIAS) { sum += bias[TAPS_AT + channels() * TAPS + channel]; }
  y[Y_OFFSET + channel] = c * sum;
  remember(channel);
}
