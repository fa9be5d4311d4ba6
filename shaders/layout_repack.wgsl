// layout_repack.wgsl: MLX's BITS-wide fields into FIELD-wide ones, values unchanged: 2 and 3 into 4 bits, 5 and 6 into 8.
//   MLX packs a row as one stream of bits, lowest first; 32 elements take exactly BITS words, and rows hold whole groups
//   of 32, so a tensor is one stream too. Reference: tests/ops/test_layout.py
//
//   binding  name    type  shape                         access
//   0        source  u32   [n BITS / 32]                 read
//   1        result  u32   [n FIELD / 32], from SHIFT on  write
//
// Dispatch: ceil(words of the result / 256) workgroups, in two dimensions where there are many; a thread a word.

override BITS: u32;
override FIELD: u32;
override SHIFT: u32 = 0u;  // words of the binding before the first result

@group(0) @binding(0) var<storage, read> source: array<u32>;
@group(0) @binding(1) var<storage, read_write> result: array<u32>;

@compute @workgroup_size(256)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) grid: vec3<u32>) {
  let word = id.y * grid.x * 256u + id.x;
  if (word + SHIFT >= arrayLength(&result)) {
    return;
  }
  let fields = 32u / FIELD;
  let first = word * fields;
  let chunk = first / 32u * BITS;  // the word where its 32 elements begin
  var packed = 0u;
  for (var i = 0u; i < fields; i++) {
    let bit = (first % 32u + i) * BITS;
    let at = chunk + bit / 32u;
    let offset = bit % 32u;
    var value = source[at] >> offset;
    if (offset + BITS > 32u) { value |= source[at + 1u] << (32u - offset); }
    packed |= (value & ((1u << BITS) - 1u)) << (i * FIELD);
  }
  result[word + SHIFT] = packed;
}
