// probe_read.wgsl: reads a buffer once and computes almost nothing: the memory bandwidth that kernels can reach.
//
//   binding  name    type       shape          access
//   0        source  vec4<u32>  [groups 4096]  read
//   1        result  u32        [64]           write    in a case that never occurs: it keeps the reads in
//
// Dispatch (groups, 1, 1): a workgroup reads 64 KiB.

@group(0) @binding(0) var<storage, read> source: array<vec4<u32>>;
@group(0) @binding(1) var<storage, read_write> result: array<u32>;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  var seen = vec4<u32>();
  for (var i = 0u; i < 16u; i++) {
    seen ^= source[group.x * 4096u + i * 256u + lane];
  }
  if ((seen.x ^ seen.y ^ seen.z ^ seen.w) == 0x9e3779b9u) { result[lane % 64u] = 1u; }
}
