// layout_convert.wgsl: a tensor's floats as f32, or as f16 two a word, while it is loaded. Reference: tests/ops/test_layout.py
//
//   binding  name    type  shape                 access
//   0        source  u32   [n] of FORMAT         read        from the first bit on
//   1        result  u32   [n] of f32, or f16    read_write  from element SHIFT of the binding to LAST elements before its end
//
// Dispatch: ceil(words of the result / 256) workgroups, in two dimensions where there are many; a thread a word. Sizes are
// read from the bindings, so that all tensors share a few pipelines. Library before it: float_bits.

override FORMAT: u32;        // of the source: F32, F16, BF16
override HALF: bool = false;  // result f16
override SHIFT: u32 = 0u;    // elements of the binding before the first result (it starts at a multiple of 256 bytes)
override LAST: u32 = 0u;     // elements behind the last one (0 or 1)

@group(0) @binding(0) var<storage, read> source: array<u32>;
@group(0) @binding(1) var<storage, read_write> result: array<u32>;

// Element i as f32 bits.
fn element(i: u32) -> u32 {
  if (FORMAT == F32) { return source[i]; }
  let word = source[i / 2u] >> (i % 2u * 16u);
  if (FORMAT == BF16) { return word << 16u; }
  return bitcast<u32>(f16_to_f32(word & 0xffffu));
}

@compute @workgroup_size(256)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) grid: vec3<u32>) {
  let word = id.y * grid.x * 256u + id.x;
  if (!HALF) {
    let at = word + SHIFT;
    if (at < arrayLength(&result)) { result[at] = element(word); }
    return;
  }
  let at = word + SHIFT / 2u;
  let end = 2u * arrayLength(&result) - LAST;
  if (at >= arrayLength(&result)) {
    return;
  }
  // The first and the last word may be shared with a neighbour.
  var value = result[at];
  if (2u * at >= SHIFT) { value = (value & 0xffff0000u) | f32_bits_to_f16(element(2u * at - SHIFT)); }
  if (2u * at + 1u < end) { value = (value & 0xffffu) | (f32_bits_to_f16(element(2u * at + 1u - SHIFT)) << 16u); }
  result[at] = value;
}
