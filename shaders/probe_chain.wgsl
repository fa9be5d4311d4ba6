// probe_chain.wgsl: a link of a chain of dependent dispatches whose result the host can compute:
//   target_words[a] = through(source[a]) * 1664525 + SALT + extra, at 1024 places spread evenly over the buffers.
//   Reference: tests/test_dispatch_tests.py
//
//   binding  name          type  shape  access
//   0        source        u32   [n]    read        n >= 1024
//   1        target_words  u32   [n]    read_write
//   2..      more          u32   [64]   read        lib/probe_inputs_2: none, _4: two, _6: four; extra is the sum of their first words
//
// Dispatch (1024 / WG, 1, 1). Libraries before it: probe_inputs_2, _4 or _6; probe_direct or probe_shared (through).

override SALT: u32 = 0u;  // tells one pipeline from another
override WG: u32 = 64u;

@group(0) @binding(0) var<storage, read> source: array<u32>;
@group(0) @binding(1) var<storage, read_write> target_words: array<u32>;

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let at = (group.x * WG + lane) * (arrayLength(&source) / 1024u);
  target_words[at] = through(source[at], lane) * 1664525u + SALT + extra();
}
