// tree_sum.wgsl: the sum of a value over the threads of a workgroup, in the same order on every GPU: 16 threads add up every
// 16th value each, then each thread their sums. Two barriers; halving over and over would take one for each half.
//
// The kernel supplies: WG, const or override, the threads of a workgroup, a multiple of 16 up to 256. Called by all of them,
// in uniform control flow.

const TREE_PARTS = 16u;

var<workgroup> tree: array<f32, 256>;
var<workgroup> tree_parts: array<f32, TREE_PARTS>;

fn tree_sum(lane: u32, value: f32) -> f32 {
  tree[lane] = value;  // whoever read it for the last sum has passed a barrier since
  workgroupBarrier();
  if (lane < TREE_PARTS) {
    var part = 0.0;
    for (var i = lane; i < WG; i += TREE_PARTS) { part += tree[i]; }
    tree_parts[lane] = part;
  }
  workgroupBarrier();
  var sum = 0.0;
  for (var i = 0u; i < TREE_PARTS; i++) { sum += tree_parts[i]; }
  return sum;
}
