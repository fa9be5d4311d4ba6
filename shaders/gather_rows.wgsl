// gather_rows.wgsl: y[t] = x[order[t]]: rows in another order. Read as [T / n, n K], y has n rows of x side by side (the
//   merger of a vision tower). Reference: tests/ops/test_patches.py
//
//   binding  name   type  shape      access
//   0        x      f32   [rows, K]  read
//   1        order  u32   [>= T]     read    each below rows
//   2        step   Step  -          read    step.rows of the T rows are valid; others stay as they are
//   3        y      f32   [>= T, K]  write
//
// Dispatch (ceil(K / 64), T, 1): a thread a number. Library before it: step.

override K: u32;

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read> order: array<u32>;
@group(0) @binding(2) var<storage, read> step: Step;
@group(0) @binding(3) var<storage, read_write> y: array<f32>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
  if (id.x < K && id.y < step.rows) { y[id.y * K + id.x] = x[order[id.y] * K + id.x]; }
}
