// delta_norm.wgsl: the gated RMSNorm behind a DeltaNet's recurrence, per value head, in place:
//   y <- y / sqrt(mean(y^2) + EPS) * weight * silu(z). Reference: tests/ops/test_delta.py
//
//   binding  name    type  shape                  access
//   0        proj    f32   [T, C + HV DV + 2 HV]  read         z begins at C
//   1        weight  f32   [DV]                   read
//   2        step    Step  -                      read
//   3        y       f32   [T, HV DV]             read_write
//
// Dispatch (HV, T, 1): a workgroup a head; rows behind step.rows do nothing. DV <= 256. Libraries before it: step, tree_sum.

override HV: u32;
override DV: u32;
override C: u32;
override EPS: f32 = 1e-6;

@group(0) @binding(0) var<storage, read> proj: array<f32>;
@group(0) @binding(1) var<storage, read> weight: array<f32>;
@group(0) @binding(2) var<storage, read> step: Step;
@group(0) @binding(3) var<storage, read_write> y: array<f32>;

const WG = 128u;

fn gated(value: f32, i: u32, z: f32) -> f32 {
  return value * weight[i] * z / (1.0 + exp(min(-z, 80.0)));
}

@compute @workgroup_size(128)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let head = group.x;
  let t = group.y;
  if (t >= step.rows) {
    return;
  }
  let at = (t * HV + head) * DV;
  let z = t * (C + HV * DV + 2u * HV) + C + head * DV;
  var low = 0.0;
  var high = 0.0;
  if (lane < DV) { low = y[at + lane]; }
  if (lane + WG < DV) { high = y[at + lane + WG]; }
  let factor = 1.0 / sqrt(tree_sum(lane, low * low + high * high) / f32(DV) + EPS);
  if (lane < DV) { y[at + lane] = gated(low * factor, lane, proj[z + lane]); }
  if (lane + WG < DV) { y[at + lane + WG] = gated(high * factor, lane + WG, proj[z + lane + WG]); }
}
