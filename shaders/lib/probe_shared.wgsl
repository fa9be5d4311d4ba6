// probe_shared.wgsl: probe_chain through workgroup memory: each lane takes its neighbour's value, lane ^ 1.

var<workgroup> passed: array<u32, 256>;

fn through(value: u32, lane: u32) -> u32 {
  passed[lane] = value;
  workgroupBarrier();
  return passed[lane ^ 1u];
}
