// sample_argmax.wgsl: the best token of each block of 128 logits, penalties included; the first step of greedy and of sampled
// decoding. NaN loses against everything, ties go to the lowest token. Reference: tests/ops/test_sample.py
//
//   binding  name      type       shape            access
//   0        logits    f32        [V]              read
//   1        counts    u32        [V]              read    history of each token, lib/sampling.wgsl
//   2        sampling  Sampling   -                read
//   3        best      vec2<u32>  [16 ceil(V/2048)]  write  (order_key, token) of each block, lib/sample_blocks.wgsl
//
// Dispatch (ceil(V / 2048), 1, 1). Libraries before it: sampling, sample_best, sample_blocks.

@group(0) @binding(0) var<storage, read> logits: array<f32>;
@group(0) @binding(1) var<storage, read> counts: array<u32>;
@group(0) @binding(2) var<storage, read> sampling: Sampling;
@group(0) @binding(3) var<storage, read_write> best: array<vec2<u32>>;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let block = group.x * RUN_BLOCKS + lane / BLOCK_LANES;
  let first = first_token(block, lane);
  let keys = keys_from(first);
  var mine = NONE;
  for (var i = 0u; i < A_LANE; i++) { mine = better(mine, vec2<u32>(keys[i], first + i * STRIDE)); }
  let winner = best_of(lane, mine, BLOCK_LANES);
  if (lane % BLOCK_LANES == 0u) { best[block] = winner; }
}
