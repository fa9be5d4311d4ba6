// sample_choose.wgsl: sampling, 3 of 3: where the filters cut, and the winner among the tokens that they leave. Filters as in
// transformers: top-k, then top-p of what it left, then min-p; each keeps the best n tokens, of equals the lowest.
//   Gumbel-max: lib/sample_noise.wgsl. Top-p: Holtzman et al. 2019, arXiv:1904.09751. Reference: tests/ops/test_sample.py
//
//   binding  name       type       shape     access
//   0        logits     f32        [V]       read
//   1        best       vec2<u32>  [BLOCKS]  read        sample_argmax.wgsl
//   2        scores     vec2<u32>  [BLOCKS]  read        sample_histogram.wgsl
//   3        sampling   Sampling   -         read
//   4        histogram  u32        [4096]    read_write  lib/sample_buckets.wgsl; zeros after
//   5        counts     u32        [V]       read_write
//   6        ids        u32        [T]       read_write  word 0
//   7        step       Step       -         read_write
//
// Dispatch (1, 1, 1). Libraries before it: step, sampling, sample_best, sample_blocks, sample_top, sample_buckets, sample_mode,
// hash, sample_noise, sample_pick, sample_step.
//
// One workgroup cannot read a whole vocabulary quickly: it reads only blocks whose best token says that they matter.
//  - Top-k of at most LIST: the list takes all tokens down to the bucket of the k-th, by the histogram or, for a small k, by
//    the blocks' best tokens. If these are too many, the k-th itself is searched for. What follows is exact.
//  - Else only the border, the bucket where the shortest filter cuts, has to be ordered: every token above it stays. The
//    winner of the whole vocabulary is kept, or blocks whose winner was not are looked through again. Top-p's share is of
//    the total weight; after a top-k beyond LIST, of a total that takes the border's tokens at their mean weight. In a
//    border of more than LIST tokens (within 1/64 nat of each other) they count with their mean weight too.

@group(0) @binding(0) var<storage, read> logits: array<f32>;
@group(0) @binding(1) var<storage, read> best: array<vec2<u32>>;
@group(0) @binding(2) var<storage, read> scores: array<vec2<u32>>;
@group(0) @binding(3) var<storage, read> sampling: Sampling;
@group(0) @binding(4) var<storage, read_write> histogram: array<u32>;
@group(0) @binding(5) var<storage, read_write> counts: array<u32>;
@group(0) @binding(6) var<storage, read_write> ids: array<u32>;
@group(0) @binding(7) var<storage, read_write> step: Step;

const LANE_BUCKETS = 8u;  // 256 lanes x 8 = 2048
const LANE_ENTRIES = 4u;  // 256 x 4 = LIST

struct Bucket {
  at: u32,     // BUCKETS: none
  count: u32,  // tokens in it
  above: u32,  // tokens above it
  weight: f32,
  weight_above: f32,
}

// Where top-k and top-p end. Written by the one lane that has the bucket.
var<workgroup> k_end: Bucket;
var<workgroup> p_end: Bucket;
var<workgroup> p_first: atomic<u32>;

// The blocks' best tokens by bucket, into `words`.
fn count_blocks(lane: u32, top: u32) {
  for (var i = 0u; i < LANE_BUCKETS; i++) { atomicStore(&words[lane + 256u * i], 0u); }
  workgroupBarrier();
  for (var at = lane; at < block_count(); at += 256u) {
    let d = below(top, best[at].x);
    if (d < REACH) { atomicAdd(&words[bucket_of(d)], 1u); }
  }
  workgroupBarrier();
}

// The best of the blocks' winners that are not worse than the cut.
fn best_within(lane: u32, cut: vec2<u32>) -> vec2<u32> {
  var mine = NONE;
  for (var at = lane; at < block_count(); at += 256u) {
    let s = scores[at];
    if (s.y < vocabulary() && not_worse(key_of(s.y), s.y, cut)) { mine = better(mine, s); }
  }
  return mine;
}

@compute @workgroup_size(256)
fn main(@builtin(local_invocation_index) lane: u32) {
  // Set here, since wgpu-native on lavapipe was seen to start with other than zeros in workgroup memory.
  if (lane == 0u) {
    atomicStore(&taken, 0u);
    atomicStore(&p_first, BUCKETS);
    k_end.at = BUCKETS;
  }
  let top = best_of_all(lane);
  let exact = sampling.top_k > 0u && sampling.top_k <= LIST;

  // Running counts and weights over the buckets; blocks alone have no weight.
  var bucket_counts: array<u32, LANE_BUCKETS>;
  var masses: array<f32, LANE_BUCKETS>;
  if (by_blocks()) {
    count_blocks(lane, top.x);
    for (var i = 0u; i < LANE_BUCKETS; i++) { bucket_counts[i] = atomicLoad(&words[lane * LANE_BUCKETS + i]); }
  } else {
    for (var i = 0u; i < LANE_BUCKETS; i++) {
      let b = lane * LANE_BUCKETS + i;
      bucket_counts[i] = histogram[b];
      masses[i] = bucket_weight(b, histogram[b], histogram[EXCESS_AT + b]);
      histogram[b] = 0u;
      histogram[EXCESS_AT + b] = 0u;
    }
  }
  var count = 0u;
  var weight = 0.0;
  for (var i = 0u; i < LANE_BUCKETS; i++) {
    count += bucket_counts[i];
    weight += masses[i];
  }
  _ = running_sums(lane, vec2<u32>(count, bitcast<u32>(weight)));
  var count_above = 0u;
  var weight_above = 0.0;
  if (lane > 0u) {
    count_above = lanes[lane - 1u].x;
    weight_above = bitcast<f32>(lanes[lane - 1u].y);
  }
  let all_count = lanes[255].x;
  let all_weight = bitcast<f32>(lanes[255].y);

  // Top-k's end.
  let by_k = sampling.top_k > 0u && sampling.top_k < all_count;
  if (by_k) {
    var c = count_above;
    var w = weight_above;
    for (var i = 0u; i < LANE_BUCKETS; i++) {
      if (c < sampling.top_k && c + bucket_counts[i] >= sampling.top_k) {
        k_end = Bucket(lane * LANE_BUCKETS + i, bucket_counts[i], c, masses[i], w);
      }
      c += bucket_counts[i];
      w += masses[i];
    }
  }
  workgroupBarrier();
  var total = all_weight;
  if (by_k) { total = k_end.weight_above + k_end.weight * f32(sampling.top_k - k_end.above) / f32(k_end.count); }

  // Top-p's end: the first bucket with which the weight reaches the share. Running weights of two lanes may differ in the
  // last bit, so the first one is found before its own lane says what is in it.
  if (sampling.top_p < 1.0 && !exact) {
    var w = weight_above;
    for (var i = 0u; i < LANE_BUCKETS; i++) {
      w += masses[i];
      if (bucket_counts[i] > 0u && w >= sampling.top_p * total) { atomicMin(&p_first, lane * LANE_BUCKETS + i); }
    }
  }
  workgroupBarrier();
  let p_at = atomicLoad(&p_first);
  if (p_at / LANE_BUCKETS == lane) {
    var c = count_above;
    var w = weight_above;
    for (var i = 0u; i < LANE_BUCKETS; i++) {
      if (lane * LANE_BUCKETS + i == p_at) { p_end = Bucket(p_at, bucket_counts[i], c, masses[i], w); }
      c += bucket_counts[i];
      w += masses[i];
    }
  }
  workgroupBarrier();

  // The tokens to be ordered, what is above them, and how many of them stay if they cannot be ordered.
  var range = Range(top.x, BUCKETS, BUCKETS, NO_CUT);
  var rank = 0u;
  var before = 0.0;
  var stay = sampling.top_k;
  if (exact) {
    range.first = 0u;
    if (by_k) { range.last = k_end.at + 1u; }
  } else if (min(k_end.at, p_at) < BUCKETS) {
    var end = k_end;
    if (p_at <= k_end.at) { end = p_end; }
    range.first = end.at;
    range.last = end.at + 1u;
    rank = end.above;
    before = end.weight_above;
    stay = end.count;
    if (end.at == k_end.at) { stay = sampling.top_k - rank; }
    if (end.at == p_at) {
      let missing = (sampling.top_p * total - before) / (end.weight / f32(end.count));
      stay = min(stay, max(u32(ceil(missing)), 1u));
    }
  }
  let noise = noise_key(sampling.seed, step.count);
  var task = LISTING;
  leader = NONE;
  var winner = NONE;
  // The second time, if the filters are not exact, looks through blocks whose winner the cut has dropped.
  for (var turn = 0u; turn < 2u; turn++) {
    let n = pick(lane, task, range, stay, exact, noise);
    if (task == LISTING) {
      var cut = nth;
      if (n <= LIST) {
        sort_list(lane, n);
        // Weight of better tokens than each; in the exact case the total is that of the top-k themselves.
        var kept = n;
        if (sampling.top_k > 0u) { kept = min(n, sampling.top_k - min(sampling.top_k, rank)); }
        var mine: array<vec2<u32>, LANE_ENTRIES>;
        var weights: array<f32, LANE_ENTRIES>;
        weight = 0.0;
        for (var i = 0u; i < LANE_ENTRIES; i++) {
          let at = lane * LANE_ENTRIES + i;
          if (at < kept) {
            mine[i] = entry(at);
            weights[i] = exp(-min(below(top.x, ~mine[i].x), REACH));
            weight += weights[i];
          }
        }
        _ = running_sums(lane, vec2<u32>(0u, bitcast<u32>(weight)));
        if (exact) { total = bitcast<f32>(lanes[255].y); }
        if (lane > 0u) { before += bitcast<f32>(lanes[lane - 1u].y); }
        for (var i = 0u; i < LANE_ENTRIES; i++) {
          let at = lane * LANE_ENTRIES + i;
          if (at < kept && (at == 0u || sampling.top_p >= 1.0 || before < sampling.top_p * total)) {
            atomicMax(&taken, at + 1u);
            // min-p comes last, so that top-p's total still has what it drops.
            if (exact) { leader = better(leader, score(noise, mine[i].y, below(top.x, ~mine[i].x))); }
          }
          before += weights[i];
        }
        let last = taken_count(lane);
        if (last > 0u) {
          let worst = entry(last - 1u);
          cut = vec2<u32>(~worst.x, worst.y);
        }
      }
      if (!exact) { leader = best_within(lane, cut); }
      range = Range(top.x, 0u, BUCKETS, cut);
      task = WINNING;
    }
    winner = workgroup_best(lane, leader);
    if (exact) { break; }
    leader = winner;
  }
  if (lane == 0u) {
    if (winner.y >= vocabulary()) { winner = top; }  // all is NaN
    advance(winner.y);
  }
}
