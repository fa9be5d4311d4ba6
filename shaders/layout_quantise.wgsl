// layout_quantise.wgsl: floats into MLX's affine form while they are loaded, bit for bit as mlx.core.quantize makes it.
//   For each group: edge = min or max, whichever has the larger magnitude; scale = (max - min) / (2^BITS - 1), at least
//   1e-7, negative if edge is max; then scale = edge / round(edge / scale), so that 0 is a step, and bias = edge (if
//   that integer is 0: scale as it was, bias 0). q = clamp(round((w - bias) / scale)), with the f32 scale; then scale
//   and bias take the floats' own format. Source: mlx/backend/cpu/quantized.cpp. Reference: tests/ops/test_layout.py
//
//   binding  name    type  shape                                     access
//   0        source  u32   [groups GROUP] of FORMAT                  read        from the first bit on
//   1        weight  u32   [groups GROUP BITS / 32], from SHIFT on    read_write
//   2        scales  u32   [groups] pairs, from SIDE_SHIFT on         read_write  a word a pair (scale low), f32: two words
//
// Dispatch: ceil(groups / 64) workgroups, in two dimensions where there are many; a thread a group. Library before it:
// float_bits.
//
// WGSL's division may be off by 2.5 ulp, which would flip ties (common: bf16 has few values), so quotients are exact.

override FORMAT: u32;           // of the source: F32, F16, BF16
override BITS: u32;             // 4 or 8
override GROUP: u32;            // 32 or 64
override SHIFT: u32 = 0u;       // words of the binding before the first result
override SIDE_SHIFT: u32 = 0u;  // pairs of the binding before the first result

@group(0) @binding(0) var<storage, read> source: array<u32>;
@group(0) @binding(1) var<storage, read_write> weight: array<u32>;
@group(0) @binding(2) var<storage, read_write> scales: array<u32>;

const MIN_SCALE = 1e-7;
const NEAR_TIE = 1e-3;  // far above the error of a division whose quotient is below SMALL
const SMALL = 256.0;

fn element(i: u32) -> f32 {
  if (FORMAT == F32) { return bitcast<f32>(source[i]); }
  let word = source[i / 2u] >> (i % 2u * 16u);
  if (FORMAT == BF16) { return bitcast<f32>(word << 16u); }
  return f16_to_f32(word & 0xffffu);
}

// a / b to the nearest f32, ties to even; 0 where that is subnormal. a and b normal, or a = 0.
fn divide(a: f32, b: f32) -> f32 {
  let x = bitcast<u32>(a);
  let y = bitcast<u32>(b);
  if ((x & 0x7f800000u) == 0u) { return 0.0; }
  var rest = (x & 0x7fffffu) | 0x800000u;
  let divisor = (y & 0x7fffffu) | 0x800000u;
  var exponent = i32((x >> 23u) & 255u) - i32((y >> 23u) & 255u) + 127;
  if (rest < divisor) {
    rest <<= 1u;
    exponent -= 1;
  }
  var quotient = 0u;  // 25 bits: 24 and the one that rounds
  for (var i = 0u; i < 25u; i++) {
    quotient <<= 1u;
    if (rest >= divisor) {
      rest -= divisor;
      quotient |= 1u;
    }
    rest <<= 1u;
  }
  var mantissa = quotient >> 1u;
  if ((quotient & 1u) == 1u && (rest != 0u || (mantissa & 1u) == 1u)) { mantissa += 1u; }
  if (exponent < 1) { return 0.0; }
  return bitcast<f32>(((x ^ y) & 0x80000000u) | ((u32(exponent) << 23u) + (mantissa - 0x800000u)));
}

// round(a / b), ties to even.
fn steps(a: f32, b: f32) -> f32 {
  let near = a / b;
  if (abs(near) < SMALL && abs(abs(near - trunc(near)) - 0.5) > NEAR_TIE) { return round(near); }
  return round(divide(a, b));
}

fn narrow(v: f32) -> u32 {
  let bits = bitcast<u32>(v);
  if (FORMAT == F16) { return f32_bits_to_f16(bits); }
  return (bits + 0x7fffu + ((bits >> 16u) & 1u)) >> 16u;
}

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) grid: vec3<u32>) {
  let group = id.y * grid.x * 64u + id.x;
  let words = GROUP * BITS / 32u;
  let to = SHIFT + group * words;
  if (to >= arrayLength(&weight)) {
    return;
  }
  let first = group * GROUP;
  var low = element(first);
  var high = low;
  for (var i = 1u; i < GROUP; i++) {
    let w = element(first + i);
    low = min(low, w);
    high = max(high, w);
  }
  let top = f32((1u << BITS) - 1u);
  var scale = max(divide(high - low, top), MIN_SCALE);
  var edge = low;
  if (abs(low) <= abs(high)) {
    edge = high;
    scale = -scale;
  }
  var bias = 0.0;
  let zero = steps(edge, scale);
  if (zero != 0.0) {
    scale = divide(edge, zero);
    bias = edge;
  }
  let fields = 32u / BITS;
  for (var i = 0u; i < words; i++) {
    var packed = 0u;
    for (var j = 0u; j < fields; j++) {
      let q = clamp(steps(element(first + i * fields + j) - bias, scale), 0.0, top);
      packed |= u32(q) << (j * BITS);
    }
    weight[to + i] = packed;
  }
  let side = SIDE_SHIFT + group;
  if (FORMAT == F32) {
    scales[2u * side] = bitcast<u32>(scale);
    scales[2u * side + 1u] = bitcast<u32>(bias);
  } else {
    scales[side] = narrow(scale) | (narrow(bias) << 16u);
  }
}
