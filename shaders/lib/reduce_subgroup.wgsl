// reduce_subgroup.wgsl: sums over the LANES threads of a row group by subgroup shuffles; without a barrier when every subgroup
// holds LANES threads, else the parts meet in workgroup memory. LANES is a power of two.
// The threads of a one-dimensional workgroup fill subgroups in the order of their index: so on every GPU known to us.
//
// The interface is reduce_workgroup.wgsl's. After: sums. Feature: subgroups.

override SUBGROUP: u32 = 4u;  // a size that no subgroup here is below (a power of two); 4 is WebGPU's least

var<workgroup> partial: array<f32, 1280>;
var<private> own: Sums;
var<private> own_thread: u32;

fn shuffle_sum(value: f32) -> f32 {
  let block = min(LANES, SUBGROUP);
  var v = value;
  if (block > 1u) { v += subgroupShuffleXor(v, 1u); }
  if (block > 2u) { v += subgroupShuffleXor(v, 2u); }
  if (block > 4u) { v += subgroupShuffleXor(v, 4u); }
  if (block > 8u) { v += subgroupShuffleXor(v, 8u); }
  if (block > 16u) { v += subgroupShuffleXor(v, 16u); }
  if (block > 32u) { v += subgroupShuffleXor(v, 32u); }
  if (block > 64u) { v += subgroupShuffleXor(v, 64u); }
  return v;
}

fn reduce(sums: Sums, thread: u32) {
  own = sums;
  own_thread = thread;
  own.lo.x = shuffle_sum(sums.lo.x);
  if (R > 1u) { own.lo.y = shuffle_sum(sums.lo.y); }
  if (R > 2u) {
    own.lo.z = shuffle_sum(sums.lo.z);
    own.lo.w = shuffle_sum(sums.lo.w);
  }
  if (R > 4u) {
    own.hi.x = shuffle_sum(sums.hi.x);
    own.hi.y = shuffle_sum(sums.hi.y);
    own.hi.z = shuffle_sum(sums.hi.z);
    own.hi.w = shuffle_sum(sums.hi.w);
  }
  if (NORM) { own.square = shuffle_sum(sums.square); }
  if (LANES > SUBGROUP) {
    for (var i = 0u; i < R + u32(NORM); i++) { partial[i * WG + thread] = sums_at(own, i); }
    workgroupBarrier();
  }
}

fn total(i: u32) -> f32 {
  if (LANES <= SUBGROUP) { return sums_at(own, i); }
  let base = i * WG + own_thread - own_thread % LANES;
  var sum = 0.0;
  for (var j = 0u; j < LANES; j += SUBGROUP) { sum += partial[base + j]; }
  return sum;
}
