// probe_direct.wgsl: probe_chain without workgroup memory.

fn through(value: u32, lane: u32) -> u32 { return value; }
