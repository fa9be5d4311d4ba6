// sample_histogram.wgsl: sampling, 2 of 3: a histogram of tokens and of their weight, by distance below the best one;
// and the winner of each block without top-k and top-p. Does nothing if a small top-k needs neither
// (lib/sample_mode.wgsl).
//   Gumbel-max: lib/sample_noise.wgsl. Reference: tests/ops/test_sample.py
//
//   binding  name       type         shape     access
//   0        logits     f32          [V]       read
//   1        counts     u32          [V]       read        history of each token, lib/sampling.wgsl
//   2        best       vec2<u32>    [BLOCKS]  read        sample_argmax.wgsl
//   3        sampling   Sampling     -         read
//   4        step       Step         -         read        count, for the noise
//   5        histogram  atomic<u32>  [4096]    read_write  lib/sample_buckets; zeros before (sample_choose clears it)
//   6        scores     vec2<u32>    [BLOCKS]  write       (order_key of noise - distance, token) among those that min-p leaves
//
// Dispatch (ceil(V / 2048), 1, 1). Libraries before it: step, sampling, sample_best, sample_blocks, sample_top,
// sample_buckets, sample_mode, hash, sample_noise.

@group(0) @binding(0) var<storage, read> logits: array<f32>;
@group(0) @binding(1) var<storage, read> counts: array<u32>;
@group(0) @binding(2) var<storage, read> best: array<vec2<u32>>;
@group(0) @binding(3) var<storage, read> sampling: Sampling;
@group(0) @binding(4) var<storage, read> step: Step;
@group(0) @binding(5) var<storage, read_write> histogram: array<atomic<u32>>;
@group(0) @binding(6) var<storage, read_write> scores: array<vec2<u32>>;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  if (by_blocks()) { return; }
  let block = group.x * RUN_BLOCKS + lane / BLOCK_LANES;
  let first = first_token(block, lane);
  let keys = keys_from(first);
  let top = best_of_all(lane).x;
  let noise = noise_key(sampling.seed, step.count);
  var mine = NONE;
  for (var i = 0u; i < A_LANE; i++) {
    let d = below(top, keys[i]);
    if (keys[i] != 0u && d < REACH) {
      let bucket = bucket_of(d);
      atomicAdd(&histogram[bucket], 1u);
      let excess = excess_of(d, bucket);
      if (excess > 0u) { atomicAdd(&histogram[EXCESS_AT + bucket], excess); }
      mine = better(mine, score(noise, first + i * STRIDE, d));
    }
  }
  let winner = best_of(lane, mine, BLOCK_LANES);
  if (lane % BLOCK_LANES == 0u) { scores[block] = winner; }
}
