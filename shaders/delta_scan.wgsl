// delta_scan.wgsl: the recurrence of a gated DeltaNet, token after token (lib/delta_rows.wgsl), for passes of few rows
// and for heads that delta_chunk.wgsl does not take. Reference: tests/ops/test_delta.py
//
//   binding  name   type       shape                       access
//   0        mixed  vec4<f32>  [T, (2 HK DK + HV DV) / 4]  read         q|k|v from delta_conv.wgsl
//   1        gates  vec2<f32>  [T, HV]                     read         (log alpha, beta)
//   2        step   Step       -                           read
//   3        state  vec4<f32>  [HV, DV, DK / 4]            read_write   S by columns; unread at position 0
//   4        y      f32        [T, HV DV]                  write        rows behind step.rows are left
//
// Dispatch (ceil(DV / 16), HV, 1). Columns of S need nothing of each other: a workgroup has 16 of them. DK <= 256; DK and
// DV are multiples of 4. Libraries before it: step, delta_rows.

override HK: u32;
override HV: u32;
override DK: u32;
override DV: u32;

@group(0) @binding(0) var<storage, read> mixed: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> gates: array<vec2<f32>>;
@group(0) @binding(2) var<storage, read> step: Step;
@group(0) @binding(3) var<storage, read_write> state: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read_write> y: array<f32>;

const MOST = 8u;  // DK <= 256
var<workgroup> pool: array<vec4<f32>, 256>;

@compute @workgroup_size(128)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
  let quads = DK / 4u;
  let head = group.y;
  let lane = thread % LANES;
  let column = group.x * (SCANNING / LANES) + thread / LANES;
  let mine = column < DV;
  let home = (head * DV + min(column, DV - 1u)) * quads;
  var s: array<vec4<f32>, MOST>;
  for (var i = 0u; i < MOST; i++) {
    let quad = lane + LANES * i;
    s[i] = vec4<f32>(0.0);
    if (mine && quad < quads && step.pos > 0u) { s[i] = state[home + quad]; }
  }
  scan_rows(&s, 0u, step.rows, head, column, thread);
  if (!mine || step.halt != 0u) {
    return;
  }
  for (var i = 0u; i < MOST; i++) {
    let quad = lane + LANES * i;
    if (quad < quads) { state[home + quad] = s[i]; }
  }
}
