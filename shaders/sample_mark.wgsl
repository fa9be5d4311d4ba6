// sample_mark.wgsl: notes the rows' tokens as part of the prompt, for the repetition penalty.
//
//   binding  name    type         shape  access
//   0        ids     u32          [T]    read        step.rows of them
//   1        step    Step         -      read
//   2        counts  atomic<u32>  [V]    read_write  history of each token, lib/sampling.wgsl
//
// Dispatch (ceil(T / 64), 1, 1). Libraries before it: step, sampling.

@group(0) @binding(0) var<storage, read> ids: array<u32>;
@group(0) @binding(1) var<storage, read> step: Step;
@group(0) @binding(2) var<storage, read_write> counts: array<atomic<u32>>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
  if (id.x < step.rows && ids[id.x] < arrayLength(&counts)) {
    atomicOr(&counts[ids[id.x]], IN_PROMPT);
  }
}
