// sample_best.wgsl: the best (order_key, token) of a workgroup of 256, or of each 16 lanes of it.

const NONE = vec2<u32>(0u, 0xffffffffu);  // loses against every token

var<workgroup> lanes: array<vec2<u32>, 256>;

// The higher key, on a tie the lower token.
fn better(a: vec2<u32>, b: vec2<u32>) -> vec2<u32> {
  if (b.x > a.x || (b.x == a.x && b.y < a.y)) { return b; }
  return a;
}

// Of the `width` lanes (a power of two) from `lane` up; right where lane is a multiple of it. Call it where all lanes do.
// In one step no lane reads what another writes.
fn best_of(lane: u32, mine: vec2<u32>, width: u32) -> vec2<u32> {
  lanes[lane] = mine;
  workgroupBarrier();
  var result = mine;
  for (var span = width / 2u; span > 0u; span /= 2u) {
    if (lane % width < span) {
      result = better(result, lanes[lane + span]);
      lanes[lane] = result;
    }
    workgroupBarrier();
  }
  return result;
}

// Of all lanes, for all lanes.
fn workgroup_best(lane: u32, mine: vec2<u32>) -> vec2<u32> {
  _ = best_of(lane, mine, 256u);
  let result = lanes[0];
  workgroupBarrier();
  return result;
}
