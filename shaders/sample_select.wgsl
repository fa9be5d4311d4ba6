// sample_select.wgsl: sampling, 3 of 4: which tokens certainly stay, which have to be ordered first, and the winner among
// the former. Filters as in transformers: top-k, then top-p of what it left, then min-p; each keeps the best n tokens.
//   Gumbel-max: lib/sample_noise.wgsl. Top-p: Holtzman et al. 2019, arXiv:1904.09751. Reference: tests/ops/test_sample.py
//
//   binding  name        type         shape      access
//   0        logits      f32          [V]        read        scaled
//   1        highest     f32          [GROUPS]   read
//   2        sampling    Sampling     -          read
//   3        step        Step         -          read        count, for the noise
//   4        histogram   atomic<u32>  [4097]     read_write  the list's length
//   5        best        vec2<u32>    [256]      write       (order_key of logit + noise, token) among those that stay
//   6        candidates  u32          [4 + 2 * 1024]  write  mode, rank and weight before the list, total weight; then (bits of
//                                                            d, token) of those to be ordered, in any order
//
// Dispatch (ceil(V / 2048), 1, 1). Libraries before it: step, sampling, sample_best, sample_buckets, sample_highest, hash,
// sample_noise.
//
// All filters cut one ordered list, so the shortest cut wins, and only the tokens of one bucket (the border) must be put
// in order. Two cases:
//  - top-k reaches at most LIST tokens with its last bucket: all of them go on the list, and everything is exact.
//  - else tokens above the border stay, those in it go on the list. The border is top-p's or top-k's, whichever comes
//    first. Top-p's share is of the total weight; after a top-k beyond LIST, of a total that takes the border's tokens at
//    their mean weight (off by less than 1.6% of the weight of that one bucket).
// A border bucket of more than LIST tokens (all within 1/64 nat of each other) stays as a whole: rather a few too many.

override V: u32;

@group(0) @binding(0) var<storage, read> logits: array<f32>;
@group(0) @binding(1) var<storage, read> highest: array<f32>;
@group(0) @binding(2) var<storage, read> sampling: Sampling;
@group(0) @binding(3) var<storage, read> step: Step;
@group(0) @binding(4) var<storage, read_write> histogram: array<atomic<u32>>;
@group(0) @binding(5) var<storage, read_write> best: array<vec2<u32>>;
@group(0) @binding(6) var<storage, read_write> candidates: array<u32>;

const A_LANE = 8u;  // buckets: 256 lanes x 8 = 2048

var<workgroup> scan_counts: array<u32, 256>;
var<workgroup> scan_weights: array<f32, 256>;
// Where top-k ends: bucket, its tokens, tokens above it, weight above it and in it. Written by the one lane that has it.
var<workgroup> k_bucket: u32;
var<workgroup> k_count: u32;
var<workgroup> k_above: u32;
var<workgroup> k_weight_above: f32;
var<workgroup> k_weight: f32;
// The same for top-p.
var<workgroup> p_bucket: atomic<u32>;
var<workgroup> p_count: u32;
var<workgroup> p_above: u32;
var<workgroup> p_weight_above: f32;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let top = highest_logit(lane);
  let s = sampling;

  // Running counts and weights over the buckets.
  var counts: array<u32, A_LANE>;
  var masses: array<f32, A_LANE>;
  var count = 0u;
  var weight = 0.0;
  for (var i = 0u; i < A_LANE; i++) {
    let b = lane * A_LANE + i;
    counts[i] = atomicLoad(&histogram[b]);
    masses[i] = 0.0;
    if (counts[i] > 0u) { masses[i] = bucket_weight(b, counts[i], atomicLoad(&histogram[EXCESS_AT + b])); }
    count += counts[i];
    weight += masses[i];
  }
  scan_counts[lane] = count;
  scan_weights[lane] = weight;
  if (lane == 0u) {
    k_bucket = BUCKETS;
    atomicStore(&p_bucket, BUCKETS);
  }
  workgroupBarrier();
  for (var span = 1u; span < 256u; span *= 2u) {
    var c = 0u;
    var w = 0.0;
    if (lane >= span) {
      c = scan_counts[lane - span];
      w = scan_weights[lane - span];
    }
    workgroupBarrier();
    scan_counts[lane] += c;
    scan_weights[lane] += w;
    workgroupBarrier();
  }
  var count_above = 0u;
  var weight_above = 0.0;
  if (lane > 0u) {
    count_above = scan_counts[lane - 1u];
    weight_above = scan_weights[lane - 1u];
  }
  let all = scan_counts[255];
  let all_weight = scan_weights[255];

  // Top-k's border.
  let by_k = s.top_k > 0u && s.top_k < all;
  if (by_k) {
    var c = count_above;
    var w = weight_above;
    for (var i = 0u; i < A_LANE; i++) {
      if (c < s.top_k && c + counts[i] >= s.top_k) {
        k_bucket = lane * A_LANE + i;
        k_count = counts[i];
        k_above = c;
        k_weight_above = w;
        k_weight = masses[i];
      }
      c += counts[i];
      w += masses[i];
    }
  }
  workgroupBarrier();
  var total = all_weight;
  var reached = all;  // tokens that have to be on the list for the exact case
  if (by_k) {
    total = k_weight_above + k_weight * f32(s.top_k - k_above) / f32(k_count);
    reached = k_above + k_count;
  }
  let exact = s.top_k > 0u && reached <= LIST;

  // Top-p's border: the first bucket with which the weight reaches the share. Running weights of two lanes may differ in
  // the last bit, so the first one is found before its own lane says what is in it.
  let share = s.top_p * total;
  let by_p = s.top_p < 1.0 && !exact;
  if (by_p) {
    var w = weight_above;
    for (var i = 0u; i < A_LANE; i++) {
      w += masses[i];
      if (counts[i] > 0u && w >= share) { atomicMin(&p_bucket, lane * A_LANE + i); }
    }
  }
  workgroupBarrier();
  let p_first = atomicLoad(&p_bucket);
  if (p_first / A_LANE == lane) {
    var c = count_above;
    var w = weight_above;
    for (var i = 0u; i < A_LANE; i++) {
      if (lane * A_LANE + i == p_first) {
        p_count = counts[i];
        p_above = c;
        p_weight_above = w;
      }
      c += counts[i];
      w += masses[i];
    }
  }
  workgroupBarrier();

  // Buckets [0, keep) stay, [keep, order) go on the list.
  var keep = BUCKETS;
  var order = BUCKETS;
  var rank = 0u;
  var before = 0.0;
  if (exact) {
    keep = 0u;
    if (by_k) { order = k_bucket + 1u; }
  } else {
    let border = min(k_bucket, p_first);
    if (border < BUCKETS) {
      var inside = 0u;
      if (p_first <= k_bucket) {
        inside = p_count;
        rank = p_above;
        before = p_weight_above;
      } else {
        inside = k_count;
        rank = k_above;
        before = k_weight_above;
      }
      keep = border;
      order = border + 1u;
      if (inside > LIST) { keep = order; }
    }
  }
  if (group.x == 0u && lane == 0u) {
    candidates[0] = u32(exact);
    candidates[1] = rank;
    candidates[2] = bitcast<u32>(before);
    candidates[3] = bitcast<u32>(total);
  }

  let key = noise_key(s.seed, step.count);
  var mine = vec2<u32>(0u, 0xffffffffu);
  for (var i = 0u; i < 8u; i++) {
    let token = group.x * 2048u + i * 256u + lane;
    if (token < V) {
      let d = top - logits[token];
      if (d < REACH) {
        let bucket = bucket_of(d);
        if (bucket < keep) {
          if (d <= s.distance) {
            mine = better(mine, vec2<u32>(order_key(gumbel(key, token) - d), token));
          }
        } else if (bucket < order) {
          let at = atomicAdd(&histogram[LENGTH_AT], 1u);
          if (at < LIST) {
            candidates[4u + 2u * at] = bitcast<u32>(d);
            candidates[5u + 2u * at] = token;
          }
        }
      }
    }
  }
  let winner = workgroup_best(lane, mine);
  if (lane == 0u) { best[group.x] = winner; }
}
