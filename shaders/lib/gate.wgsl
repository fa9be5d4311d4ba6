// gate.wgsl: the activations of gated MLPs (SwiGLU, GeGLU; Shazeer 2020, arXiv:2002.05202). In f32.

override ACTIVATION: u32 = 0u;  // 0: silu, x * sigmoid(x). 1: gelu_tanh, 0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))

fn activate(v: f32) -> f32 {
  if (ACTIVATION == 1u) {
    // tanh overflows to NaN on some GPUs; at 10 it is 1 in f32.
    return 0.5 * v * (1.0 + tanh(clamp(0.7978845608028654 * (v + 0.044715 * v * v * v), -10.0, 10.0)));
  }
  return v / (1.0 + exp(min(-v, 80.0)));
}
