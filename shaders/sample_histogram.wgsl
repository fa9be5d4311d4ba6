// sample_histogram.wgsl: sampling, 2 of 4: how many tokens, and how much weight, lie how far below the best one.
// Reference: tests/ops/test_sample.py
//
//   binding  name       type         shape     access
//   0        logits     f32          [V]       read        scaled
//   1        highest    f32          [GROUPS]  read        the best of each run of 2048
//   2        histogram  atomic<u32>  [4097]    read_write  lib/sample_buckets.wgsl
//
// Dispatch (ceil(V / 2048), 1, 1). Libraries before it: sample_buckets, sample_highest.

override V: u32;

@group(0) @binding(0) var<storage, read> logits: array<f32>;
@group(0) @binding(1) var<storage, read> highest: array<f32>;
@group(0) @binding(2) var<storage, read_write> histogram: array<atomic<u32>>;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let top = highest_logit(lane);
  for (var i = 0u; i < 8u; i++) {
    let token = group.x * 2048u + i * 256u + lane;
    if (token < V) {
      let d = top - logits[token];
      if (d < REACH) {
        let bucket = bucket_of(d);
        atomicAdd(&histogram[bucket], 1u);
        let excess = excess_of(d, bucket);
        if (excess > 0u) { atomicAdd(&histogram[EXCESS_AT + bucket], excess); }
      }
    }
  }
}
