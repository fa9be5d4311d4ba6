// probe_gather.wgsl: collects the 1024 places of probe_fill.
//
//   binding  name      type  shape   access
//   0        words     u32   [n]     read        n >= 1024
//   1        gathered  u32   [1024]  write
//
// Dispatch (16, 1, 1).

@group(0) @binding(0) var<storage, read> words: array<u32>;
@group(0) @binding(1) var<storage, read_write> gathered: array<u32>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
  gathered[id.x] = words[id.x * (arrayLength(&words) / 1024u)];
}
