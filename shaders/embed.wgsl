// embed.wgsl: y[t] = table[ids[t]] * SCALE; with ADD, y[t] += that
//   Reference: tests/ops/test_embed.py
//
//   binding  name    type        shape         access
//   0        ids     u32         [>= T]        read
//   1        weight  WeightWord  [N, K]        read     see graph/matrix.py
//   2        scales  u32         [N, K/GROUP]  read     pairs; dummy for floats
//   3        y       f32         [T, K]        read_write  only the rows whose id this part holds
//
// Dispatch (ceil(chunks / 64), T, 1): a thread a chunk of 32 elements.
// Libraries before it: chunk, (scales,) weight_<format> or weight_<format>_any + chunk_any, weight_chunk.

override N: u32;               // rows of this part of the table
override K: u32;
override ROW_OFFSET: u32 = 0u;  // the table's row that is row 0 here
override VOCAB: u32;           // rows of the whole table: a larger id means the last row
override SCALE: f32 = 1.0;     // sqrt(K) for Gemma
override ADD: bool = false;    // positions, token types

@group(0) @binding(0) var<storage, read> ids: array<u32>;
@group(0) @binding(1) var<storage, read> weight: array<WeightWord>;
@group(0) @binding(2) var<storage, read> scales: array<u32>;
@group(0) @binding(3) var<storage, read_write> y: array<f32>;

fn put_one(at: u32, v: f32) {
  if (ADD) {
    y[at] += v * SCALE;
  } else {
    y[at] = v * SCALE;
  }
}

fn put(at: u32, k: u32, v: vec4<f32>) {
  if (k < K) { put_one(at + k, v.x); }
  if (k + 1u < K) { put_one(at + k + 1u, v.y); }
  if (k + 2u < K) { put_one(at + k + 2u, v.z); }
  if (k + 3u < K) { put_one(at + k + 3u, v.w); }
}

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
  let token = min(ids[id.y], VOCAB - 1u);
  let k = id.x * 32u;
  if (k >= K || token < ROW_OFFSET || token - ROW_OFFSET >= N) {
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
