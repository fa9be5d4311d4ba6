// input_direct.wgsl: a matvec's input row read from the storage buffer by each thread as it goes. K % 32 == 0.
//
// The kernel supplies: overrides K, WG, LANES, NORM, NORM_OFFSET, var x, norm_weight: array<InputWord>, input_row().
// It supplies: stage_input, input_chunk, and `squares`, this lane's part of sum(x^2) when NORM. After: chunk.

alias InputWord = vec4<f32>;
const SEGMENT = 0xffffffffu;  // chunks that lie ready at a time: all

var<private> squares: f32;

fn stage_input(begin: u32, thread: u32) {}

fn input_chunk(chunk: u32) -> Chunk {
  let i = input_row() * (K / 4u) + chunk * 8u;
  let a = Chunk(x[i], x[i + 1u], x[i + 2u], x[i + 3u], x[i + 4u], x[i + 5u], x[i + 6u], x[i + 7u]);
  if (NORM) {
    squares += chunk_dot(a, a);
    let j = chunk * 8u;
    let w = Chunk(norm_weight[j], norm_weight[j + 1u], norm_weight[j + 2u], norm_weight[j + 3u],
                  norm_weight[j + 4u], norm_weight[j + 5u], norm_weight[j + 6u], norm_weight[j + 7u]);
    return chunk_mul(a, chunk_affine(w, 1.0, NORM_OFFSET));
  }
  return a;
}
