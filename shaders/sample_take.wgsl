// sample_take.wgsl: greedy, 2 of 2: writes the best token of all to the step. Reference: tests/ops/test_sample.py
//
//   binding  name      type       shape   access
//   0        best      vec2<u32>  [BLOCKS]  read      (order_key, token) of each block
//   1        sampling  Sampling   -       read
//   2        counts    u32        [V]     read_write
//   3        ids       u32        [T]     read_write  word 0
//   4        step      Step       -       read_write
//
// Dispatch (1, 1, 1). Libraries before it: step, sampling, sample_best, sample_top, sample_step.

@group(0) @binding(0) var<storage, read> best: array<vec2<u32>>;
@group(0) @binding(1) var<storage, read> sampling: Sampling;
@group(0) @binding(2) var<storage, read_write> counts: array<u32>;
@group(0) @binding(3) var<storage, read_write> ids: array<u32>;
@group(0) @binding(4) var<storage, read_write> step: Step;

@compute @workgroup_size(256)
fn main(@builtin(local_invocation_index) lane: u32) {
  let winner = best_of_all(lane);
  if (lane == 0u) { advance(winner.y); }
}
