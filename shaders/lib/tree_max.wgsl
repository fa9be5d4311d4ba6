// tree_max.wgsl: the largest value over the threads of a workgroup. As tree_sum, whose memory it uses. After: tree_sum.

fn tree_max(lane: u32, value: f32) -> f32 {
  tree[lane] = value;
  workgroupBarrier();
  if (lane < TREE_PARTS) {
    var part = value;
    for (var i = lane; i < WG; i += TREE_PARTS) { part = max(part, tree[i]); }
    tree_parts[lane] = part;
  }
  workgroupBarrier();
  var most = tree_parts[0];
  for (var i = 1u; i < TREE_PARTS; i++) { most = max(most, tree_parts[i]); }
  return most;
}
