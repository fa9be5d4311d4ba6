// bytes_q4.wgsl: a chunk of 4-bit fields as bytes for dot4I8Packed, in the order of quantise.wgsl.
//
// It supplies the kernel: Bytes, weight_bytes, bytes_affine (what makes a byte b a value: b * x + y). After: weight_q4.

struct Bytes { lo: vec4<u32>, hi: vec4<u32> }  // 16 fields, then the other 16

fn weight_bytes(packed: Packed) -> Bytes {
  let even = packed.words & vec4<u32>(0x0f0f0f0fu);
  let odd = (packed.words >> vec4<u32>(4u)) & vec4<u32>(0x0f0f0f0fu);
  return Bytes(vec4<u32>(even.x, odd.x, even.y, odd.y), vec4<u32>(even.z, odd.z, even.w, odd.w));
}

fn bytes_affine(packed: Packed) -> vec2<f32> {
  return scale_pair(packed.scale);
}
