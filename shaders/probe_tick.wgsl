// probe_tick.wgsl: adds one to a few words, so that a chain of these measures what a dependent dispatch costs.
//
//   binding  name   type  shape  access
//   0        count  u32   [64]   read_write
//
// Dispatch (1, 1, 1).

@group(0) @binding(0) var<storage, read_write> count: array<u32>;

@compute @workgroup_size(64)
fn main(@builtin(local_invocation_index) lane: u32) {
  count[lane] += 1u;
}
