// bytes_q8.wgsl: a chunk of 8-bit fields less 128 as bytes for dot4I8Packed, in the order of quantise.wgsl.
//
// It supplies the kernel: Bytes, weight_bytes, bytes_affine (what makes a byte b a value: b * x + y). After: weight_q8.

struct Bytes { lo: vec4<u32>, hi: vec4<u32> }  // 16 fields, then the other 16

// Eight fields, four a word, as those at even places and those at odd places.
fn even_and_odd(pair: vec2<u32>) -> vec2<u32> {
  let even = pair & vec2<u32>(0x00ff00ffu);
  let odd = (pair >> vec2<u32>(8u)) & vec2<u32>(0x00ff00ffu);
  // 0 _ 2 _ becomes 0 2 in the low half of a word.
  let low = (vec2<u32>(even.x, odd.x) | (vec2<u32>(even.x, odd.x) >> vec2<u32>(8u))) & vec2<u32>(0xffffu);
  let high = (vec2<u32>(even.y, odd.y) | (vec2<u32>(even.y, odd.y) >> vec2<u32>(8u))) & vec2<u32>(0xffffu);
  return (low | (high << vec2<u32>(16u))) ^ vec2<u32>(0x80808080u);
}

fn weight_bytes(packed: Packed) -> Bytes {
  return Bytes(vec4<u32>(even_and_odd(packed.a.xy), even_and_odd(packed.a.zw)),
               vec4<u32>(even_and_odd(packed.b.xy), even_and_odd(packed.b.zw)));
}

fn bytes_affine(packed: Packed) -> vec2<f32> {
  let pair = scale_pair(packed.scale);
  return vec2<f32>(pair.x, pair.y + 128.0 * pair.x);
}
