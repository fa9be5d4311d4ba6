// probe_inputs_6.wgsl: 4 further inputs for probe_chain, 6 bindings in all.

@group(0) @binding(2) var<storage, read> more0: array<u32>;
@group(0) @binding(3) var<storage, read> more1: array<u32>;
@group(0) @binding(4) var<storage, read> more2: array<u32>;
@group(0) @binding(5) var<storage, read> more3: array<u32>;

fn extra() -> u32 { return more0[0] + more1[0] + more2[0] + more3[0]; }
