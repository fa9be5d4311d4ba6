// delta_conv.wgsl: the part of a gated DeltaNet before its recurrence, for a chunk of rows:
//   c = silu(causal depthwise convolution over time of q|k|v), the last tap on the row's own token;
//   q, k heads: x / sqrt(sum x^2 + 1e-6), q also / sqrt(DK); alpha = exp(-exp(a_log) softplus(a + dt_bias)), beta = sigmoid(b).
//   Yang et al. 2024, arXiv:2412.06464; the gates as in Mamba-2. Reference: tests/ops/test_delta.py
//
//   binding  name     type       shape                  access
//   0        proj     f32        [T, C + HV DV + 2 HV]  read         q|k|v (C = 2 HK DK + HV DV), z, b, a
//   1        weight   f32        [C, TAPS]              read
//   2        decay    f32        [2, HV]                read         a_log, dt_bias
//   3        step     Step       -                      read
//   4        history  f32        [TAPS, C]              read_write   q|k|v of position p at p % TAPS
//   5        mixed    f32        [T, C]                 write
//   6        gates    vec2<f32>  [T, HV]                write        (log alpha, beta)
//
// Dispatch (2 HK + HV, ceil(T / ROWS), 1): a workgroup a head and ROWS rows. Only the first block of rows reads the
// history, and it is the one that replaces it, a channel a thread: so ROWS >= TAPS - 1 where there are more blocks. Four
// rows at a time, so ROWS is a multiple of 4. Rows from step.rows on are not written. DK, DV <= 256.
// Libraries before it: step, delta_input, causal_conv.

override HK: u32;
override HV: u32;
override DK: u32;
override DV: u32;
override TAPS: u32;
override ROWS: u32;
override WG: u32;  // threads, a multiple of 16 up to 128: at least one for two channels of a head

@group(0) @binding(0) var<storage, read> proj: array<f32>;
@group(0) @binding(1) var<storage, read> weight: array<f32>;
@group(0) @binding(2) var<storage, read> decay: array<f32>;
@group(0) @binding(3) var<storage, read> step: Step;
@group(0) @binding(4) var<storage, read_write> history: array<f32>;
@group(0) @binding(5) var<storage, read_write> mixed: array<f32>;
@group(0) @binding(6) var<storage, read_write> gates: array<vec2<f32>>;

var<workgroup> squares: array<vec4<f32>, 128>;
var<workgroup> sums: array<vec4<f32>, 16>;

// A channel of rows t .. t + 3 behind convolution and silu; of rows behind the last it is whatever.
fn four_rows(t: u32, channel: u32) -> vec4<f32> {
  let c = vec4<f32>(
    convolved(t, channel), convolved(t + 1u, channel), convolved(t + 2u, channel), convolved(t + 3u, channel));
  return c / (vec4<f32>(1.0) + exp(min(-c, vec4<f32>(80.0))));
}

// Sums over the workgroup, of four rows at once.
fn sums_of(lane: u32, value: vec4<f32>) -> vec4<f32> {
  squares[lane] = value;
  workgroupBarrier();
  var sum = vec4<f32>(0.0);
  if (lane < 16u) {
    for (var i = lane; i < WG; i += 16u) { sum += squares[i]; }
    sums[lane] = sum;
  }
  workgroupBarrier();
  sum = vec4<f32>(0.0);
  for (var i = 0u; i < 16u; i++) { sum += sums[i]; }
  return sum;
}

fn keep(t: u32, channel: u32, c: vec4<f32>) {
  let at = t * channels() + channel;
  mixed[at] = c.x;
  if (t + 1u < step.rows) { mixed[at + channels()] = c.y; }
  if (t + 2u < step.rows) { mixed[at + 2u * channels()] = c.z; }
  if (t + 3u < step.rows) { mixed[at + 3u * channels()] = c.w; }
}

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let head = group.x;
  let first = group.y * ROWS;
  let rows = step.rows;
  if (first >= rows) {
    return;
  }
  let keys = 2u * HK * DK;
  let is_key = head < 2u * HK;
  var size = DV;
  var base = keys + (head - 2u * HK) * DV;  // wraps for q and k, which do not use it
  if (is_key) {
    size = DK;
    base = head * DK;
  } else {
    for (var t = first + lane; t < min(first + ROWS, rows); t += WG) {
      gates[t * HV + head - 2u * HK] = gates_of(t, head - 2u * HK);
    }
  }
  for (var t = first; t < min(first + ROWS, rows); t += 4u) {
    var low = vec4<f32>(0.0);
    var high = vec4<f32>(0.0);
    if (lane < size) { low = four_rows(t, base + lane); }
    if (lane + WG < size) { high = four_rows(t, base + lane + WG); }
    if (is_key) {
      var factor = 1.0 / sqrt(sums_of(lane, low * low + high * high) + vec4<f32>(1e-6));
      if (head < HK) { factor /= sqrt(f32(DK)); }
      low *= factor;
      high *= factor;
    }
    if (lane < size) { keep(t, base + lane, low); }
    if (lane + WG < size) { keep(t, base + lane + WG, high); }
  }
  if (group.y == 0u) {
    for (var c = lane; c < size; c += WG) { remember(base + c); }
  }
}
