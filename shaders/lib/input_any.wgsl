// input_any.wgsl: input_direct.wgsl for rows of any length; zeros behind the end. After: chunk.

alias InputWord = f32;
const SEGMENT = 0xffffffffu;

var<private> squares: f32;

fn stage_input(begin: u32, thread: u32) {}

fn input_element(k: u32) -> f32 {
  let there = min(k, K - 1u);
  let v = select(0.0, x[input_row() * K + there], k < K);  // no branch: a chunk has 32 of them
  if (NORM) {
    squares += v * v;
    return v * (norm_weight[there] + NORM_OFFSET);
  }
  return v;
}

fn input_vec4(k: u32) -> vec4<f32> {
  return vec4<f32>(input_element(k), input_element(k + 1u), input_element(k + 2u), input_element(k + 3u));
}

fn input_chunk(chunk: u32) -> Chunk {
  let k = chunk * 32u;
  return Chunk(input_vec4(k), input_vec4(k + 4u), input_vec4(k + 8u), input_vec4(k + 12u),
               input_vec4(k + 16u), input_vec4(k + 20u), input_vec4(k + 24u), input_vec4(k + 28u));
}
