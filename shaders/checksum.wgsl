// checksum.wgsl: two sums of 32 bits over the words of tensors, to find damage in the store.
//   With w the word at index i of its tensor and pcg a permutation of the 32-bit words (lib/hash.wgsl):
//     p = pcg(i), q = pcg(p + 0x9e3779b9);   sums[slot] += (pcg(w ^ p), pcg(w + q))   modulo 2^32
//   A changed word changes both sums for certain. Changes of several words (swapped, shifted, zeroed) go unseen with
//   probability 2^-64, since what a word adds depends on its place. Addition has no order, so a tensor may come in slices.
//   Reference: tests/ops/test_checksum.py
//
//   binding  name   type         shape           access
//   0        data   u32          [words]         read
//   1        parts  vec4<u32>    [parts, 4]      read        first word in data, words, index of the first in its
//                                                            tensor, slot
//   2        sums   atomic<u32>  [slots, 2]      read_write
//
// Dispatch: (ceil(words of the longest part / WORDS), parts, 1). Libraries before it: hash.

const WORDS = 16384u;  // of a workgroup

@group(0) @binding(0) var<storage, read> data: array<u32>;
@group(0) @binding(1) var<storage, read> parts: array<vec4<u32>>;
@group(0) @binding(2) var<storage, read_write> sums: array<atomic<u32>>;

var<workgroup> partial: array<vec2<u32>, 256>;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let part = parts[group.y];
  let end = min(part.y, (group.x + 1u) * WORDS);
  var sum = vec2<u32>();
  for (var i = group.x * WORDS + lane; i < end; i += 256u) {
    let word = data[part.x + i];
    let p = pcg(part.z + i);
    let q = pcg(p + 0x9e3779b9u);
    sum += vec2<u32>(pcg(word ^ p), pcg(word + q));
  }
  partial[lane] = sum;
  for (var width = 128u; width > 0u; width /= 2u) {
    workgroupBarrier();
    if (lane < width) { partial[lane] += partial[lane + width]; }
  }
  if (lane == 0u && group.x * WORDS < part.y) {
    atomicAdd(&sums[2u * part.w], partial[0].x);
    atomicAdd(&sums[2u * part.w + 1u], partial[0].y);
  }
}
