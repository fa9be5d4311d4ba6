// float_bits.wgsl: floats from and to the bits that stand in files, by integers, so that subnormal numbers survive devices
// that flush them in unpack2x16float.

const F32 = 0u;
const F16 = 1u;
const BF16 = 2u;

// Exact.
fn f16_to_f32(half_bits: u32) -> f32 {
  let sign = (half_bits & 0x8000u) << 16u;
  let exponent = (half_bits >> 10u) & 31u;
  let fraction = half_bits & 1023u;
  if (exponent == 0u) {
    let magnitude = f32(fraction) * 5.9604644775390625e-8;  // 2^-24
    return bitcast<f32>(bitcast<u32>(magnitude) | sign);
  }
  if (exponent == 31u) { return bitcast<f32>(sign | 0x7f800000u | (fraction << 13u)); }
  return bitcast<f32>(sign | ((exponent + 112u) << 23u) | (fraction << 13u));
}

// To the nearest, ties to even; what f16 cannot hold becomes its largest value, NaN stays NaN.
fn f32_bits_to_f16(bits: u32) -> u32 {
  let sign = (bits >> 16u) & 0x8000u;
  let magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) { return sign | 0x7e00u; }
  if (magnitude >= 0x477fe000u) { return sign | 0x7bffu; }  // 65504
  if (magnitude >= 0x38800000u) {                            // 2^-14, the smallest normal
    let rounded = magnitude + 0xfffu + ((magnitude >> 13u) & 1u);
    return sign | min((rounded >> 13u) - (112u << 10u), 0x7bffu);
  }
  let exponent = magnitude >> 23u;
  if (exponent < 102u) { return sign; }  // below half of 2^-24
  let shift = 126u - exponent;           // 14 .. 24
  let fraction = (magnitude & 0x7fffffu) | 0x800000u;
  let half_unit = (1u << (shift - 1u)) - 1u;
  return sign | ((fraction + half_unit + ((fraction >> shift) & 1u)) >> shift);
}
