// rows_any.wgsl: rows_vec4.wgsl for rows of any length; zeros behind the end.

alias InputWord = f32;

fn x_or_zero(row: u32, k: u32) -> f32 {
  return select(0.0, x[row * K + min(k, K - 1u)], k < K);
}

fn x_vec4(row: u32, k4: u32) -> vec4<f32> {
  let k = k4 * 4u;
  return vec4<f32>(x_or_zero(row, k), x_or_zero(row, k + 1u), x_or_zero(row, k + 2u), x_or_zero(row, k + 3u));
}
