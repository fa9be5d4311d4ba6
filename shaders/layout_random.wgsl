// layout_random.wgsl: weights out of a hash, equal on every device, for speed and memory runs without a checkpoint.
//   Reference: tests/ops/test_layout.py
//
//   binding  name    type  shape    access
//   0        result  u32   [words]  write
//
// Dispatch: (WIDTH, height, 1), a thread a word. The grid's width is the seed too, so that all fills of a kind share a
// pipeline; the caller keeps WIDTH >= 256. Libraries before it: hash, float_bits.
//
// Floats are k STEP, k odd in -255 .. 255: with STEP of three significant bits they are exact in f16 and rounded by no
// device.

override KIND: u32;              // the constants below
override STEP: f32 = 0.0;        // of floats
override EVEN: u32 = 0u;         // CONSTANT: words 0, 2, ..
override ODD: u32 = 0u;          //           words 1, 3, ..

const PACKED = 0u;    // quantised fields: the hash as it is
const FLOATS = 1u;    // f32
const HALVES = 2u;    // f16 pairs
const BRAINS = 3u;    // bf16 pairs, the lower bits cut off
const CONSTANT = 4u;

@group(0) @binding(0) var<storage, read_write> result: array<u32>;

fn value(bits: u32) -> u32 { return bitcast<u32>(f32(i32((bits & 255u) * 2u + 1u) - 256) * STEP); }

@compute @workgroup_size(256)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) grid: vec3<u32>) {
  let word = id.y * grid.x * 256u + id.x;
  if (word >= arrayLength(&result)) {
    return;
  }
  let bits = pcg(pcg(word) ^ pcg(grid.x));
  var v = bits;
  if (KIND == FLOATS) { v = value(bits); }
  if (KIND == HALVES) { v = f32_bits_to_f16(value(bits)) | (f32_bits_to_f16(value(bits >> 16u)) << 16u); }
  if (KIND == BRAINS) { v = (value(bits) >> 16u) | (value(bits >> 16u) & 0xffff0000u); }
  if (KIND == CONSTANT) {
    v = EVEN;
    if (word % 2u == 1u) { v = ODD; }
  }
  result[word] = v;
}
