// patch_positions.wgsl: x[t] += the learned position of patch t, resampled from a square table to the grid of its picture:
//   sum over taps i of its row and j of its column of w_i w_j table[i, j]. A row outside the grid (CLS) becomes cls + table[0].
//   Separable resampling; the host computes the taps (py_engine/blocks/position_taps.py). Reference: tests/ops/test_patches.py
//
//   binding  name    type       shape                   access
//   0        places  vec2<u32>  [>= T]                  read        the patch's row and column in the grid
//   1        taps    f32        [2, SIDES, 2 + TAPS]    read        of each row, each column: first place on the table's side,
//                                                                   how many, their weights
//   2        table   f32        [BASE + SIDE SIDE, K]   read        row by row; BASE rows before them
//   3        cls     f32        [K]                     read        dummy without BASE
//   4        step    Step       -                       read        step.rows of the T rows are valid; others stay as they are
//   5        x       f32        [>= T, K]               read_write
//
// Dispatch (ceil(K / 64), T, 1): a thread a number. Library before it: step.

override K: u32;
override SIDE: u32;
override SIDES: u32;        // the most rows or columns of a grid
override TAPS: u32;         // the most taps of one of them
override BASE: u32 = 0u;    // 1: row 0 of the table is the position of the CLS row

@group(0) @binding(0) var<storage, read> places: array<vec2<u32>>;
@group(0) @binding(1) var<storage, read> taps: array<f32>;
@group(0) @binding(2) var<storage, read> table: array<f32>;
@group(0) @binding(3) var<storage, read> cls: array<f32>;
@group(0) @binding(4) var<storage, read> step: Step;
@group(0) @binding(5) var<storage, read_write> x: array<f32>;

const OUTSIDE = 0xffffffffu;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
  let k = id.x;
  if (k >= K || id.y >= step.rows) { return; }
  let at = id.y * K + k;
  let place = places[id.y];
  if (BASE == 1u && place.x == OUTSIDE) {
    x[at] = cls[k] + table[k];
    return;
  }
  let row = place.x * (2u + TAPS);
  let column = (SIDES + place.y) * (2u + TAPS);
  let first = u32(taps[column]);
  let columns = u32(taps[column + 1u]);
  var sum = 0.0;
  for (var i = 0u; i < u32(taps[row + 1u]); i++) {
    let line = (BASE + (u32(taps[row]) + i) * SIDE + first) * K + k;
    var part = 0.0;
    for (var j = 0u; j < columns; j++) { part += taps[column + 2u + j] * table[line + j * K]; }
    sum += taps[row + 2u + i] * part;
  }
  x[at] += sum;
}
