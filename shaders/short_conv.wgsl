// short_conv.wgsl: LFM2's gated short convolution: u = B * X, y = C * (causal depthwise convolution over time of u, + bias).
//   As in transformers, models/lfm2. For one token see lib/matvec_conv.wgsl. Reference: tests/ops/test_short_conv.py
//
//   binding  name     type  shape             access
//   0        proj     f32   [T, 3 CHANNELS]   read         B, C, X
//   1        weight   f32   -                 read         at TAPS_AT: taps [CHANNELS, TAPS], then bias [CHANNELS] (BIAS)
//   2        step     Step  -                 read
//   3        history  f32   [TAPS, CHANNELS]  read_write   u of position p at p % TAPS
//   4        y        f32   [T, CHANNELS]     write
//
// Dispatch (ceil(CHANNELS / 64), ceil(T / ROWS), 1): a thread a channel and ROWS rows. Only the first block of rows reads
// the history, and it is the one that replaces it: so ROWS >= TAPS - 1 where there are more blocks. Rows from step.rows
// on do nothing. Libraries before it: step, causal_conv.

override CHANNELS: u32;
override TAPS: u32;
override TAPS_AT: u32 = 0u;
override ROWS: u32;
override BIAS: bool = false;

@group(0) @binding(0) var<storage, read> proj: array<f32>;
@group(0) @binding(1) var<storage, read> weight: array<f32>;
@group(0) @binding(2) var<storage, read> step: Step;
@group(0) @binding(3) var<storage, read_write> history: array<f32>;
@group(0) @binding(4) var<storage, read_write> y: array<f32>;

fn channels() -> u32 { return CHANNELS; }

fn input(row: u32, channel: u32) -> f32 {
  let at = row * 3u * CHANNELS + channel;
  return proj[at] * proj[at + 2u * CHANNELS];
}

fn tap(channel: u32, j: u32) -> f32 { return weight[TAPS_AT + channel * TAPS + j]; }

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let channel = group.x * 64u + lane;
  let first = group.y * ROWS;
  if (channel >= CHANNELS || first >= step.rows) {
    return;
  }
  for (var t = first; t < min(first + ROWS, step.rows); t++) {
    var sum = convolved(t, channel);
    if (BIAS) { sum += weight[TAPS_AT + CHANNELS * TAPS + channel]; }
    y[t * CHANNELS + channel] = proj[(t * 3u + 1u) * CHANNELS + channel] * sum;
  }
  if (group.y == 0u) { remember(channel); }
}
