// patches.wgsl: cuts a picture into rows of patches, its bytes as normalised numbers. A workgroup a patch.
//   Reference: tests/ops/test_patches.py
//
//   binding  name        type  shape                     access
//   0        first       u32   [height, width]           read   R + 256 G + 65536 B; the first picture of a row
//   1        second      u32   [height, width]           read   the second one, where FRAMES is 2
//   2        values      f32   [3, 256]                  read   what a byte of a colour becomes
//   3        parameters  u32   [4]                       read   the constants below
//   4        y           f32   [.., 3 FRAMES PATCH^2]    write
//
// A row is (colour, frame, y, x), or (y, x, colour) where CHANNELS_LAST (then FRAMES is 1). Rows go by rows of patches;
// where MERGE > 1, by squares of MERGE x MERGE patches, and inside a square by its rows.
//
// Dispatch (g, h, 1) with g h >= patches. Library before it: none.

override PATCH: u32;
override MERGE: u32 = 1u;
override FRAMES: u32 = 1u;
override CHANNELS_LAST: bool = false;

// Places of the parameters.
const COUNT = 0u;         // patches
const ACROSS = 1u;        // patches beside each other, a multiple of MERGE
const WIDTH = 2u;         // pixels of a line
const ROW = 3u;           // the row of y for the first patch

@group(0) @binding(0) var<storage, read> first: array<u32>;
@group(0) @binding(1) var<storage, read> second: array<u32>;
@group(0) @binding(2) var<storage, read> values: array<f32>;
@group(0) @binding(3) var<storage, read> parameters: array<u32>;
@group(0) @binding(4) var<storage, read_write> y: array<f32>;

const WG = 64u;

@compute @workgroup_size(64)
fn main(
  @builtin(workgroup_id) group: vec3<u32>,
  @builtin(num_workgroups) groups: vec3<u32>,
  @builtin(local_invocation_index) lane: u32,
) {
  let patch_number = group.y * groups.x + group.x;
  if (patch_number >= parameters[COUNT]) { return; }
  let square = patch_number / (MERGE * MERGE);
  let inside = patch_number % (MERGE * MERGE);
  let squares = parameters[ACROSS] / MERGE;
  let down = (square / squares) * MERGE + inside / MERGE;
  let across = (square % squares) * MERGE + inside % MERGE;
  let corner = down * PATCH * parameters[WIDTH] + across * PATCH;
  let area = PATCH * PATCH;
  let row = (parameters[ROW] + patch_number) * 3u * FRAMES * area;
  for (var i = lane; i < area; i += WG) {
    let at = corner + (i / PATCH) * parameters[WIDTH] + i % PATCH;
    for (var frame = 0u; frame < FRAMES; frame++) {
      var colours = first[at];
      if (frame == 1u) { colours = second[at]; }
      for (var c = 0u; c < 3u; c++) {
        var place = (c * FRAMES + frame) * area + i;
        if (CHANNELS_LAST) { place = 3u * i + c; }
        y[row + place] = values[256u * c + ((colours >> (8u * c)) & 255u)];
      }
    }
  }
}
