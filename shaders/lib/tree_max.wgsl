// tree_max.wgsl: the largest value over the threads of a workgroup. As tree_sum, whose memory it uses. After: tree_sum.

fn tree_max(lane: u32, value: f32) -> f32 {
  workgroupBarrier();  // whoever still reads the last result
  tree[lane] = value;
  workgroupBarrier();
  for (var half = WG / 2u; half > 0u; half /= 2u) {
    var other = 0.0;
    if (lane < half) { other = tree[lane + half]; }
    workgroupBarrier();
    if (lane < half) { tree[lane] = max(tree[lane], other); }
    workgroupBarrier();
  }
  return tree[0];
}
