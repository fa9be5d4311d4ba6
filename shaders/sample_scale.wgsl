// sample_scale.wgsl: sampling, 1 of 4: penalties and temperature on the logits in place, the best of each run of 2048, a
// clean histogram. NaN becomes -1e30, infinities +-1e30. Reference: tests/ops/test_sample.py
//
//   binding  name       type      shape     access
//   0        logits     f32       [V]       read_write
//   1        counts     u32       [V]       read        history of each token, lib/sampling.wgsl
//   2        sampling   Sampling  -         read
//   3        highest    f32       [256]     write       of each workgroup
//   4        histogram  u32       [4097]    write       zeros, by workgroup 0
//
// Dispatch (ceil(V / 2048), 1, 1). Libraries before it: sampling, sample_best, sample_buckets.

override V: u32;

@group(0) @binding(0) var<storage, read_write> logits: array<f32>;
@group(0) @binding(1) var<storage, read> counts: array<u32>;
@group(0) @binding(2) var<storage, read> sampling: Sampling;
@group(0) @binding(3) var<storage, read_write> highest: array<f32>;
@group(0) @binding(4) var<storage, read_write> histogram: array<u32>;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  var mine = vec2<u32>(0u, 0xffffffffu);
  let s = sampling;
  for (var i = 0u; i < 8u; i++) {
    let token = group.x * 2048u + i * 256u + lane;
    if (token < V) {
      var l = logits[token];
      if (s.penalised != 0u) { l = penalise(l, counts[token], s); }
      if (order_key(l) == 0u) {
        l = -1e30;
      } else {
        l = clamp(l * s.inverse_temperature, -1e30, 1e30);
      }
      logits[token] = l;
      mine = better(mine, vec2<u32>(order_key(l), token));
    }
  }
  if (group.x == 0u) {
    for (var i = lane; i <= LENGTH_AT; i += 256u) { histogram[i] = 0u; }
  }
  let winner = workgroup_best(lane, mine);
  if (lane == 0u) { highest[group.x] = from_order_key(winner.x); }
}
