// short_conv.wgsl: LFM2's gated short convolution: u = B * X, y = C * causal depthwise convolution over time of u.
//   As in transformers, models/lfm2. Reference: tests/ops/test_short_conv.py
//
//   binding  name     type  shape             access
//   0        proj     f32   [T, 3 CHANNELS]   read         B, C, X
//   1        weight   f32   [CHANNELS, TAPS]  read         the last tap is the row's own token's
//   2        bias     f32   [CHANNELS]        read         dummy without BIAS
//   3        step     Step  -                 read
//   4        history  f32   [TAPS - 1, CHANNELS]  read_write   the last rows of u; unread at position 0
//   5        y        f32   [T, CHANNELS]     write
//
// Dispatch (ceil(CHANNELS / 64), ceil(T / ROWS), 1): a thread a channel and ROWS rows. Only the first block of rows reads
// the history, and it is the one that replaces it: so ROWS >= TAPS - 1 where there are more blocks. Rows behind step.rows
// do nothing. Library before it: step.

override CHANNELS: u32;
override TAPS: u32;
override ROWS: u32;
override BIAS: bool = false;

@group(0) @binding(0) var<storage, read> proj: array<f32>;
@group(0) @binding(1) var<storage, read> weight: array<f32>;
@group(0) @binding(2) var<storage, read> bias: array<f32>;
@group(0) @binding(3) var<storage, read> step: Step;
@group(0) @binding(4) var<storage, read_write> history: array<f32>;
@group(0) @binding(5) var<storage, read_write> y: array<f32>;

// u of row i - (TAPS - 1) of this pass; the rows before it are the history.
fn input(i: u32, channel: u32) -> f32 {
  if (i >= TAPS - 1u) {
    let at = (i + 1u - TAPS) * 3u * CHANNELS + channel;
    return proj[at] * proj[at + 2u * CHANNELS];
  }
  if (step.pos == 0u) { return 0.0; }
  return history[i * CHANNELS + channel];
}

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let channel = group.x * 64u + lane;
  let first = group.y * ROWS;
  let rows = step.rows;
  if (channel >= CHANNELS || first >= rows) {
    return;
  }
  for (var t = first; t < min(first + ROWS, rows); t++) {
    var sum = 0.0;
    if (BIAS) { sum = bias[channel]; }
    for (var j = 0u; j < TAPS; j++) { sum += weight[channel * TAPS + j] * input(t + j, channel); }
    y[t * CHANNELS + channel] = proj[(t * 3u + 1u) * CHANNELS + channel] * sum;
  }
  if (group.y > 0u || step.halt != 0u) {
    return;
  }
  for (var j = 0u; j + 1u < TAPS; j++) {
    history[j * CHANNELS + channel] = input(rows + j, channel);  // reads only rows behind j
  }
}
