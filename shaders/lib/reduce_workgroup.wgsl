// reduce_workgroup.wgsl: sums over the LANES threads of a row group through workgroup memory; one barrier, none if LANES is 1.
//
// The kernel supplies: overrides WG, LANES, R, NORM, with WG * (R + 1) <= 1280. Thread t is lane t % LANES of group t / LANES.
// Call reduce in uniform control flow, then total(i) in any: i in 0..R-1 is a row's sum, R the squares'. After: sums.

var<workgroup> partial: array<f32, 1280>;
var<private> own: Sums;
var<private> own_thread: u32;

fn reduce(sums: Sums, thread: u32) {
  own = sums;
  own_thread = thread;
  if (LANES == 1u) { return; }
  for (var i = 0u; i < R + u32(NORM); i++) { partial[i * WG + thread] = sums_at(sums, i); }
  workgroupBarrier();
}

fn total(i: u32) -> f32 {
  if (LANES == 1u) { return sums_at(own, i); }
  let lane = own_thread % LANES;
  let base = i * WG + own_thread - lane;
  var sum = 0.0;
  for (var j = 0u; j < LANES; j++) {
    sum += partial[base + (lane + j) % LANES];  // each lane begins elsewhere: no bank conflicts
  }
  return sum;
}
