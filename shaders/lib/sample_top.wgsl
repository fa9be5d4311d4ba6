// sample_top.wgsl: the best of all blocks. The kernel supplies var best: array<vec2<u32>>. Library before it: sample_best.

override BLOCKS: u32;  // at most 4096

// (order_key, token); call it where all 256 lanes do.
fn best_of_all(lane: u32) -> vec2<u32> {
  var mine = NONE;
  for (var at = lane; at < BLOCKS; at += 1024u) {
    for (var i = 0u; i < 4u; i++) { mine = better(mine, best[min(at + 256u * i, BLOCKS - 1u)]); }
  }
  return workgroup_best(lane, mine);
}
