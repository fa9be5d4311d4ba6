// input_staged.wgsl: a matvec's input row (times the norm's weight) staged in workgroup memory, 2048 elements at a time.
// K % 32 == 0. Neighbouring lanes read chunks 128 bytes apart: from storage that is a cache line a lane for each load;
// here a chunk takes 9 vec4 instead of 8, so that eight lanes meet eight different banks.
//
// The kernel supplies: overrides K, WG, LANES, NORM, NORM_OFFSET, var x, norm_weight: array<InputWord>, input_row().
// It supplies: stage_input (holds barriers), input_chunk, and `squares`, this lane's part of sum(x^2). After: chunk.

alias InputWord = vec4<f32>;
const SEGMENT = 64u;        // chunks staged at a time
const MAX_THREADS = 256u;

var<workgroup> staged: array<vec4<f32>, 576>;  // SEGMENT * 9
var<workgroup> staged_squares: array<f32, MAX_THREADS>;
var<private> squares: f32;

fn stage_input(begin: u32, thread: u32) {
  let count = min(K / 32u - begin, SEGMENT) * 8u;
  let from_x = input_row() * (K / 4u) + begin * 8u;
  if (begin > 0u) {
    workgroupBarrier();  // everyone is done with the segment before
  }
  var sum = 0.0;
  for (var i = thread; i < count; i += WG) {
    var v = x[from_x + i];
    if (NORM) {
      sum += dot(v, v);
      v *= norm_weight[begin * 8u + i] + NORM_OFFSET;
    }
    staged[i + i / 8u] = v;
  }
  if (NORM) {
    staged_squares[thread] = sum;
  }
  workgroupBarrier();
  if (NORM) {
    // The threads' sums, dealt to the lanes of each row group: a lane takes those of its own number modulo LANES.
    for (var i = thread % LANES; i < WG; i += LANES) {
      squares += staged_squares[i];
    }
  }
}

fn input_chunk(chunk: u32) -> Chunk {
  let i = (chunk % SEGMENT) * 9u;
  return Chunk(staged[i], staged[i + 1u], staged[i + 2u], staged[i + 3u],
               staged[i + 4u], staged[i + 5u], staged[i + 6u], staged[i + 7u]);
}
