// sample_argmax.wgsl: greedy, first half: the best token of each run of 2048 logits, penalties included.
// NaN loses against everything, ties go to the lowest token. Reference: tests/ops/test_sample.py
//
//   binding  name      type       shape   access
//   0        logits    f32        [V]     read
//   1        counts    u32        [V]     read    history of each token, lib/sampling.wgsl
//   2        sampling  Sampling   -       read
//   3        best      vec2<u32>  [256]   write   (order_key, token) of each workgroup
//
// Dispatch (ceil(V / 2048), 1, 1). Libraries before it: sampling, sample_best.

override V: u32;

@group(0) @binding(0) var<storage, read> logits: array<f32>;
@group(0) @binding(1) var<storage, read> counts: array<u32>;
@group(0) @binding(2) var<storage, read> sampling: Sampling;
@group(0) @binding(3) var<storage, read_write> best: array<vec2<u32>>;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  var mine = vec2<u32>(0u, 0xffffffffu);
  let s = sampling;
  for (var i = 0u; i < 8u; i++) {
    let token = group.x * 2048u + i * 256u + lane;
    if (token < V) {
      var l = logits[token];
      if (s.penalised != 0u) { l = penalise(l, counts[token], s); }
      mine = better(mine, vec2<u32>(order_key(l), token));
    }
  }
  let winner = workgroup_best(lane, mine);
  if (lane == 0u) { best[group.x] = winner; }
}
