// sums.wgsl: what a thread of a matvec adds up: dot products of up to 8 rows, and the squares of the input.
//
// The kernel supplies: override R (rows, at most 8).

struct Sums { lo: vec4<f32>, hi: vec4<f32>, square: f32 }

// Row i's sum; i = R: the squares'. By comparisons: an array indexed by a lane's number would go to slow memory.
fn sums_at(s: Sums, i: u32) -> f32 {
  if (i == R) { return s.square; }
  if (i == 0u) { return s.lo.x; }
  if (i == 1u) { return s.lo.y; }
  if (i == 2u) { return s.lo.z; }
  if (i == 3u) { return s.lo.w; }
  if (i == 4u) { return s.hi.x; }
  if (i == 5u) { return s.hi.y; }
  if (i == 6u) { return s.hi.z; }
  return s.hi.w;
}
