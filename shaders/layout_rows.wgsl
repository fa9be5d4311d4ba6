// layout_rows.wgsl: rows of a tensor made into rows of a matrix while they are loaded: brought to a length (weight norm), a
//   convolution's taps put before its channels. Weight norm: w = g v / |v|; a row of zeros stays one.
//   Source: Salimans & Kingma 2016, arXiv:1602.07868. Reference: tests/ops/test_layout.py
//
//   binding  name     type  shape                             access
//   0        source   u32   [rows COLS] of FORMAT             read        from the first bit on
//   1        lengths  f32   [rows], from LENGTHS_SHIFT on     read        g of each row, where NORMED
//   2        result   u32   [rows COLS] of TO, from SHIFT on  read_write  to the binding's end; rows are whole words
//
// Dispatch: a workgroup a row, in two dimensions where there are many. Library before it: float_bits, tree_sum.

override FORMAT: u32;               // of the source: F32, F16, BF16
override TO: u32;                   // of the result
override COLS: u32;                 // even where TO is no F32
override CHANNELS: u32 = 1u;        // a row [CHANNELS, taps] becomes [taps, CHANNELS]; 1: its order stays
override NORMED: bool = false;
override SHIFT: u32 = 0u;           // words of the binding before the first result
override LENGTHS_SHIFT: u32 = 0u;   // floats of the binding before the first length

@group(0) @binding(0) var<storage, read> source: array<u32>;
@group(0) @binding(1) var<storage, read> lengths: array<f32>;
@group(0) @binding(2) var<storage, read_write> result: array<u32>;

const WG = 256u;

// Element i as f32 bits.
fn element(i: u32) -> u32 {
  if (FORMAT == F32) { return source[i]; }
  let word = source[i / 2u] >> (i % 2u * 16u);
  if (FORMAT == BF16) { return word << 16u; }
  return bitcast<u32>(f16_to_f32(word & 0xffffu));
}

// Number i of the result's row as f32 bits; `first`: the row's element 0.
fn number(first: u32, i: u32, factor: f32) -> u32 {
  let bits = element(first + i % CHANNELS * (COLS / CHANNELS) + i / CHANNELS);
  if (NORMED) { return bitcast<u32>(bitcast<f32>(bits) * factor); }
  return bits;
}

fn narrow(bits: u32) -> u32 {
  if (TO == F16) { return f32_bits_to_f16(bits); }
  return (bits + 0x7fffu + ((bits >> 16u) & 1u)) >> 16u;
}

@compute @workgroup_size(256)
fn main(
  @builtin(workgroup_id) group: vec3<u32>,
  @builtin(num_workgroups) grid: vec3<u32>,
  @builtin(local_invocation_index) lane: u32,
) {
  let row = group.y * grid.x + group.x;
  let first = row * COLS;
  var factor = 1.0;
  if (NORMED) {
    var squares = 0.0;
    for (var i = lane; i < COLS; i += WG) {
      let v = bitcast<f32>(element(first + i));
      squares += v * v;
    }
    let length = sqrt(tree_sum(lane, squares));
    factor = 0.0;
    if (length > 0.0) { factor = lengths[LENGTHS_SHIFT + row] / length; }
  }
  var words = COLS;
  if (TO != F32) { words = COLS / 2u; }
  let to = SHIFT + row * words;
  for (var i = lane; i < words; i += WG) {
    if (to + i >= arrayLength(&result)) { break; }  // of a row that only fills the grid
    if (TO == F32) {
      result[to + i] = number(first, i, factor);
    } else {
      result[to + i] = narrow(number(first, 2u * i, factor)) | (narrow(number(first, 2u * i + 1u, factor)) << 16u);
    }
  }
}
