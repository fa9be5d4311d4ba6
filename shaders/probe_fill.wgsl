// probe_fill.wgsl: words[a] = VALUE + FACTOR * i at the i-th of 1024 places spread evenly over a buffer.
//
//   binding  name   type  shape  access
//   0        words  u32   [n]    read_write  n >= 1024
//
// Dispatch (16, 1, 1).

override VALUE: u32 = 0u;
override FACTOR: u32 = 0u;

@group(0) @binding(0) var<storage, read_write> words: array<u32>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
  words[id.x * (arrayLength(&words) / 1024u)] = VALUE + FACTOR * id.x;
}
