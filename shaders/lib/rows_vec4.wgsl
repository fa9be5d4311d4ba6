// rows_vec4.wgsl: rows of x read four elements at a time. K % 32 == 0.
//
// The kernel supplies: override K, var x: array<InputWord> [T, K].

alias InputWord = vec4<f32>;

fn x_vec4(row: u32, k4: u32) -> vec4<f32> {
  return x[row * (K / 4u) + k4];
}
