// embed.wgsl: y[t] = table[ids[t]] * SCALE; where ids[t] is negative, a row of an image or a sound, y[t] is left as it is.
//   Reference: tests/ops/test_embed.py
//
//   binding  name    type        shape         access
//   0        ids     u32         [>= T]        read     negative: from 2^31 on
//   1        weight  WeightWord  [N, K]        read     see graph/matrix.py
//   2        scales  u32         [N, K/GROUP]  read     pairs; dummy for floats
//   3        y       f32         [T, K]        write    only the rows whose id this part holds
//
// Dispatch (ceil(chunks / 64), T, 1): a thread a chunk of 32 elements.
// Libraries before it: chunk, (scales,) weight_<format> or weight_<format>_any + chunk_any, weight_chunk.

override N: u32;               // rows of this part of the table
override K: u32;
override ROW_OFFSET: u32 = 0u;  // the table's row that is row 0 here
override VOCAB: u32;           // rows of the whole table: a larger id means the last row
override SCALE: f32 = 1.0;     // sqrt(K) for Gemma

@group(0) @binding(0) var<storage, read> ids: array<u32>;
@group(0) @binding(1) var<storage, read> weight: array<WeightWord>;
@group(0) @binding(2) var<storage, read> scales: array<u32>;
@group(0) @binding(3) var<storage, read_write> y: array<f32>;

fn put(at: u32, k: u32, v: vec4<f32>) {
  if (k < K) { y[at + k] = v.x * SCALE; }
  if (k + 1u < K) { y[at + k + 1u] = v.y * SCALE; }
  if (k + 2u < K) { y[at + k + 2u] = v.z * SCALE; }
  if (k + 3u < K) { y[at + k + 3u] = v.w * SCALE; }
}

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
  let token = min(ids[id.y], VOCAB - 1u);
  let k = id.x * 32u;
  let given = ids[id.y] >= 0x80000000u;
  if (given || k >= K || token < ROW_OFFSET || token - ROW_OFFSET >= N) {
    return;
  }
  let chunk = weight_chunk(token - ROW_OFFSET, id.x);
  let at = id.y * K;
  put(at, k, chunk.v0);
  put(at, k + 4u, chunk.v1);
  put(at, k + 8u, chunk.v2);
  put(at, k + 12u, chunk.v3);
  put(at, k + 16u, chunk.v4);
  put(at, k + 20u, chunk.v5);
  put(at, k + 24u, chunk.v6);
  put(at, k + 28u, chunk.v7);
}
