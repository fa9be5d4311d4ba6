// sample_choose.wgsl: sampling, 4 of 4: puts the listed tokens in order, keeps those that the filters leave, and takes the
// winner among them and those that certainly stay. Reference: tests/ops/test_sample.py
//
//   binding  name        type       shape           access
//   0        candidates  u32        [4 + 2 * 1024]  read        sample_select.wgsl
//   1        histogram   u32        [4097]          read        the list's length
//   2        best        vec2<u32>  [256]           read        GROUPS winners so far
//   3        sampling    Sampling   -               read
//   4        counts      u32        [V]             read_write
//   5        ids         u32        [T]             read_write  word 0
//   6        step        Step       -               read_write
//
// Dispatch (1, 1, 1). Libraries before it: step, sampling, sample_best, sample_buckets, hash, sample_noise, sample_step.

override GROUPS: u32;

@group(0) @binding(0) var<storage, read> candidates: array<u32>;
@group(0) @binding(1) var<storage, read> histogram: array<u32>;
@group(0) @binding(2) var<storage, read> best: array<vec2<u32>>;
@group(0) @binding(3) var<storage, read> sampling: Sampling;
@group(0) @binding(4) var<storage, read_write> counts: array<u32>;
@group(0) @binding(5) var<storage, read_write> ids: array<u32>;
@group(0) @binding(6) var<storage, read_write> step: Step;

const WG = 256u;
const A_LANE = 4u;  // LIST / WG

var<workgroup> list: array<vec2<u32>, LIST>;  // (bits of d >= 0, token): ascending is from the best down
var<workgroup> sums: array<f32, WG>;

fn weight_at(i: u32, n: u32) -> f32 {
  if (i >= n) { return 0.0; }
  return exp(-bitcast<f32>(list[i].x));
}

@compute @workgroup_size(256)
fn main(@builtin(local_invocation_index) lane: u32) {
  let n = min(histogram[LENGTH_AT], LIST);
  var size = 1u;
  while (size < n) { size *= 2u; }
  for (var i = lane; i < size; i += WG) {
    var entry = vec2<u32>(0xffffffffu);
    if (i < n) { entry = vec2<u32>(candidates[4u + 2u * i], candidates[5u + 2u * i]); }
    list[i] = entry;
  }
  workgroupBarrier();
  // Bitonic sort (Batcher 1968).
  for (var run = 2u; run <= size; run *= 2u) {
    for (var span = run / 2u; span > 0u; span /= 2u) {
      for (var pair = lane; pair < size / 2u; pair += WG) {
        let i = pair / span * 2u * span + pair % span;
        let a = list[i];
        let b = list[i + span];
        let a_first = a.x < b.x || (a.x == b.x && a.y < b.y);
        if (a_first != ((i & run) == 0u)) {
          list[i] = b;
          list[i + span] = a;
        }
      }
      workgroupBarrier();
    }
  }

  let s = sampling;
  let exact = candidates[0] != 0u;
  let rank0 = candidates[1];
  // Weight of better tokens than each; in the exact case the total is that of the top-k themselves.
  var kept = n;
  if (s.top_k > 0u) { kept = min(n, s.top_k - min(s.top_k, rank0)); }
  var sum = 0.0;
  for (var i = 0u; i < A_LANE; i++) { sum += weight_at(lane * A_LANE + i, kept); }
  sums[lane] = sum;
  workgroupBarrier();
  for (var span = 1u; span < WG; span *= 2u) {
    var w = 0.0;
    if (lane >= span) { w = sums[lane - span]; }
    workgroupBarrier();
    sums[lane] += w;
    workgroupBarrier();
  }
  var before = bitcast<f32>(candidates[2]);
  var total = bitcast<f32>(candidates[3]);
  if (exact) { total = sums[WG - 1u]; }
  if (lane > 0u) { before += sums[lane - 1u]; }

  let key = noise_key(s.seed, step.count);
  var mine = vec2<u32>(0u, 0xffffffffu);
  if (lane < GROUPS) { mine = best[lane]; }
  for (var i = 0u; i < A_LANE; i++) {
    let at = lane * A_LANE + i;
    if (at < kept && (rank0 + at == 0u || s.top_p >= 1.0 || before < s.top_p * total)) {
      let entry = list[at];
      let d = bitcast<f32>(entry.x);
      // min-p comes last, so that top-p's total still has what it drops.
      if (d <= s.distance) { mine = better(mine, vec2<u32>(order_key(gumbel(key, entry.y) - d), entry.y)); }
    }
    before += weight_at(at, kept);
  }
  let winner = workgroup_best(lane, mine);
  if (lane == 0u) { advance(winner.y); }
}
