// nearest_scores.wgsl: how near each stored vector is to a query: s_n = sum_k rows[n, k] query[k], as a key that sorts as s does.
//   Vectors and query have unit length, so s is the cosine. Reference: tests/ops/test_nearest.py
//
//   binding  name   type        shape      access
//   0        rows   vec4<u32>   [N, K8]    read    8 f16 each; a row ends with zeros up to a multiple of 8
//   1        query  vec4<f32>   [2 K8]     read    with zeros at its end likewise
//   2        live   u32         [N / 32]   read    bit n: vector n may be found
//   3        keys   u32         [N]        write   sample_best's order key of s_n; 0, the lowest: not to be found
//
// N is a multiple of 32. Dispatch (N / 16, 1, 1): 16 lanes a row, so that they read 256 bytes beside one another.

override K8: u32;

@group(0) @binding(0) var<storage, read> rows: array<vec4<u32>>;
@group(0) @binding(1) var<storage, read> query: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> live: array<u32>;
@group(0) @binding(3) var<storage, read_write> keys: array<u32>;

const TEAM = 16u;  // lanes a row, and rows a workgroup

var<workgroup> parts: array<f32, 256>;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let row = group.x * TEAM + lane / TEAM;
  var sum = 0.0;
  for (var i = lane % TEAM; i < K8; i += TEAM) {
    let r = rows[row * K8 + i];
    let low = vec4<f32>(unpack2x16float(r.x), unpack2x16float(r.y));
    let high = vec4<f32>(unpack2x16float(r.z), unpack2x16float(r.w));
    sum += dot(low, query[2u * i]) + dot(high, query[2u * i + 1u]);
  }
  parts[lane] = sum;
  workgroupBarrier();
  if (lane < TEAM) {
    var score = 0.0;
    for (var i = 0u; i < TEAM; i++) { score += parts[lane * TEAM + i]; }
    let n = group.x * TEAM + lane;
    let bits = bitcast<u32>(score);
    var key = bits | 0x80000000u;
    if (bits >= 0x80000000u) { key = ~bits; }
    if (((live[n / 32u] >> (n % 32u)) & 1u) == 0u) { key = 0u; }
    keys[n] = key;
  }
}
