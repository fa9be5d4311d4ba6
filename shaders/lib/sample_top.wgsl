// sample_top.wgsl: the best of all blocks. The kernel supplies var best: array<vec2<u32>>, whose binding ends with the
// blocks, at most 4096. Library before it: sample_best.

fn block_count() -> u32 { return arrayLength(&best); }

// (order_key, token); call it where all 256 lanes do.
fn best_of_all(lane: u32) -> vec2<u32> {
  var mine = NONE;
  for (var at = lane; at < block_count(); at += 1024u) {
    for (var i = 0u; i < 4u; i++) { mine = better(mine, best[min(at + 256u * i, block_count() - 1u)]); }
  }
  return workgroup_best(lane, mine);
}
