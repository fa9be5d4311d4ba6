// sample_highest.wgsl: the highest logit of all, from the runs' own. The kernel supplies var highest: array<f32>.

override GROUPS: u32;  // runs, at most 256

var<workgroup> highest_of: array<f32, 256>;

// Call it where all 256 lanes do.
fn highest_logit(lane: u32) -> f32 {
  highest_of[lane] = highest[min(lane, GROUPS - 1u)];
  workgroupBarrier();
  for (var span = 128u; span > 0u; span /= 2u) {
    var other = -1e30;
    if (lane < span) { other = highest_of[lane + span]; }
    workgroupBarrier();
    if (lane < span) { highest_of[lane] = max(highest_of[lane], other); }
    workgroupBarrier();
  }
  return highest_of[0];
}
