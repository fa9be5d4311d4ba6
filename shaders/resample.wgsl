// resample.wgsl: one pass of resizing a picture of 8-bit colours, along its rows or down its columns:
//     y[i] = clip((2^21 + sum_t weights[i, t] x[starts[i] + t]) >> 22)
//   in whole numbers, with weights of 22 bits behind the point: Pillow's ImagingResample for 8 bits a channel.
//   Reference: tests/ops/test_resample.py
//
//   binding  name        type  shape             access
//   0        x           u32   bytes of pixels   read   CHANNELS bytes a pixel: grey; R G B; R G B and one to skip
//   1        weights     i32   [places, width]   read   for each row (column) of the output; 0 behind a filter's end
//   2        starts      u32   [places]          read   the first row (column) of the input that has a weight
//   3        parameters  i32   [12]              read   the constants below
//   4        y           u32   [.., ..]          write  R + 256 G + 65536 B, and 255 as the highest byte
//
// Dispatch (ceil(most pixels of a line / 64), most lines, 1). Library before it: none.

override CHANNELS: u32;
override VERTICAL: bool;  // sums run down the columns

// Places of the parameters. Distances are in pixels.
const LINE = 0u;          // pixels of an output line
const LINES = 1u;         // output lines
const BASE = 2u;          // where pixel (0, 0) of the input is, or would be
const ROW = 3u;           // from a row of the input to the next
const COLUMN = 4u;        // from a column of the input to the next
const WIDTH = 5u;         // weights of an output pixel
const FIRST = 6u;         // the place in `weights` of output pixel 0
const TARGET = 7u;        // where output pixel (0, 0) goes
const TARGET_ROW = 8u;    // from an output line to the next

@group(0) @binding(0) var<storage, read> x: array<u32>;
@group(0) @binding(1) var<storage, read> weights: array<i32>;
@group(0) @binding(2) var<storage, read> starts: array<u32>;
@group(0) @binding(3) var<storage, read> parameters: array<i32>;
@group(0) @binding(4) var<storage, read_write> y: array<u32>;

const HALF = 1 << 21u;
const PRECISION = 22u;

fn byte(i: u32) -> i32 {
  return i32((x[i / 4u] >> (8u * (i % 4u))) & 255u);
}

fn pixel(i: u32) -> vec3<i32> {
  if (CHANNELS == 4u) {
    let word = x[i];
    return vec3<i32>(i32(word & 255u), i32((word >> 8u) & 255u), i32((word >> 16u) & 255u));
  }
  if (CHANNELS == 3u) { return vec3<i32>(byte(3u * i), byte(3u * i + 1u), byte(3u * i + 2u)); }
  return vec3<i32>(byte(i));
}

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
  let column = i32(id.x);
  let line = i32(id.y);
  if (column >= parameters[LINE] || line >= parameters[LINES]) { return; }
  // The output pixel whose weights these are; the input pixel of weight t is at `at + t * step`.
  var place = parameters[FIRST] + column;
  var at = parameters[BASE] + line * parameters[ROW];
  var step = parameters[COLUMN];
  if (VERTICAL) {
    place = parameters[FIRST] + line;
    at = parameters[BASE] + column * parameters[COLUMN];
    step = parameters[ROW];
  }
  at += i32(starts[place]) * step;
  let width = parameters[WIDTH];
  var sum = vec3<i32>(HALF);
  for (var t = 0; t < width; t++) {
    sum += weights[place * width + t] * pixel(u32(at + t * step));
  }
  let colour = vec3<u32>(clamp(sum >> vec3<u32>(PRECISION), vec3<i32>(0), vec3<i32>(255)));
  y[parameters[TARGET] + line * parameters[TARGET_ROW] + column] =
    colour.r | (colour.g << 8u) | (colour.b << 16u) | 0xff000000u;
}
