// probe_inputs_4.wgsl: 2 further inputs for probe_chain, 4 bindings in all.

@group(0) @binding(2) var<storage, read> more0: array<u32>;
@group(0) @binding(3) var<storage, read> more1: array<u32>;

fn extra() -> u32 { return more0[0] + more1[0]; }
