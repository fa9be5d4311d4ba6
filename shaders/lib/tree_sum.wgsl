// tree_sum.wgsl: the sum of a value over the threads of a workgroup, by halves, in the same order on every GPU.
//
// The kernel supplies: const WG, the threads of a workgroup, a power of two. Called by all of them, in uniform control flow.

var<workgroup> tree: array<f32, WG>;

fn tree_sum(lane: u32, value: f32) -> f32 {
  workgroupBarrier();  // whoever still reads the last sum
  tree[lane] = value;
  workgroupBarrier();
  for (var half = WG / 2u; half > 0u; half /= 2u) {
    var other = 0.0;
    if (lane < half) { other = tree[lane + half]; }
    workgroupBarrier();
    if (lane < half) { tree[lane] += other; }
    workgroupBarrier();
  }
  return tree[0];
}
