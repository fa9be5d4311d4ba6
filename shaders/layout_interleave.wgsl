// layout_interleave.wgsl: MLX's scales, or biases, into the (scale, bias) pairs that the kernels read.
//   Reference: tests/ops/test_layout.py
//
//   binding  name    type  shape                         access
//   0        source  u32   [n] of 16-bit or 32-bit words  read
//   1        result  u32   [n] pairs, from SHIFT on      read_write  a word a pair (scale in the low half), or two words
//
// Dispatch: ceil(n / 256) workgroups, in two dimensions where there are many.

override WIDE: bool = false;  // f32: two words a pair
override BIAS: bool = false;  // the second of the pair, else the first
override SHIFT: u32 = 0u;     // pairs of the binding before the first result

@group(0) @binding(0) var<storage, read> source: array<u32>;
@group(0) @binding(1) var<storage, read_write> result: array<u32>;

@compute @workgroup_size(256)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) grid: vec3<u32>) {
  let i = id.y * grid.x * 256u + id.x;
  if (WIDE) {
    let at = 2u * (i + SHIFT) + u32(BIAS);
    if (at < arrayLength(&result)) { result[at] = source[i]; }
    return;
  }
  let at = i + SHIFT;
  if (at >= arrayLength(&result)) {
    return;
  }
  let half_word = (source[i / 2u] >> (i % 2u * 16u)) & 0xffffu;
  if (BIAS) {
    result[at] = (result[at] & 0xffffu) | (half_word << 16u);
  } else {
    result[at] = (result[at] & 0xffff0000u) | half_word;
  }
}
