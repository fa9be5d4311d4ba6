// sample_best.wgsl: the best (order_key, token) of a workgroup of 256. Library before it: sampling.

var<workgroup> best_of: array<vec2<u32>, 256>;

// Of all lanes' `mine`; call it where all lanes do.
fn workgroup_best(lane: u32, mine: vec2<u32>) -> vec2<u32> {
  best_of[lane] = mine;
  workgroupBarrier();
  var result = mine;
  for (var span = 128u; span > 0u; span /= 2u) {
    if (lane < span) { result = better(result, best_of[lane + span]); }
    workgroupBarrier();
    if (lane < span) { best_of[lane] = result; }
    workgroupBarrier();
  }
  result = best_of[0];
  workgroupBarrier();
  return result;
}
