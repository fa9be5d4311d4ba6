// sums.wgsl: what a thread of a matvec adds up: dot products of up to 8 rows, and the squares of the input.
//
// The kernel supplies: override R (rows, at most 8).

struct Sums { lo: vec4<f32>, hi: vec4<f32>, square: f32 }

// Row i's sum; i = R: the squares'. By comparisons: an array indexed by a lane's number would go to slow memory.
fn sums_at(s: Sums, i: u32) -> f32 {
  var sum = s.lo.x;
  if (R > 1u && i == 1u) { sum = s.lo.y; }
  if (R > 2u && i == 2u) { sum = s.lo.z; }
  if (R > 3u && i == 3u) { sum = s.lo.w; }
  if (R > 4u && i == 4u) { sum = s.hi.x; }
  if (R > 5u && i == 5u) { sum = s.hi.y; }
  if (R > 6u && i == 6u) { sum = s.hi.z; }
  if (R > 7u && i == 7u) { sum = s.hi.w; }
  if (i == R) { sum = s.square; }
  return sum;
}
