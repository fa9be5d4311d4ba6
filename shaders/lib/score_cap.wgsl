// score_cap.wgsl: attention scores held within +-CAP, CAP tanh(s / CAP) (Gemma 2, arXiv:2408.00118).

override CAP: f32 = 0.0;  // 0: scores as they are

fn capped(s: vec4<f32>) -> vec4<f32> {
  if (CAP == 0.0) { return s; }
  // tanh overflows to NaN on some GPUs; at 10 it is 1 in f32.
  return CAP * tanh(clamp(s / CAP, vec4<f32>(-10.0), vec4<f32>(10.0)));
}
