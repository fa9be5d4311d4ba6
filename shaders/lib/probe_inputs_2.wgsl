// probe_inputs_2.wgsl: no further inputs for probe_chain, 2 bindings in all.

fn extra() -> u32 { return 0u; }
