// gate.wgsl: activations, and what becomes of a product before it is stored or added. In f32.
//   Gated MLPs (SwiGLU, GeGLU): Shazeer 2020, arXiv:2002.05202. GELU: Hendrycks & Gimpel 2016, arXiv:1606.08415.
//   Squared ReLU: So et al. 2021, arXiv:2109.08668. erf: Abramowitz & Stegun 7.1.26, off by 1.5e-7 at most.
//
// The kernel supplies: var bias: array<f32>, whose elements from FACTORS_AT on are the FACTORS.

override ACTIVATION: u32 = 0u;  // the constants below, SILU where none is asked for
override ACTIVATE: bool = false;  // finished() applies it
override FACTORS: bool = false;   // finished() multiplies by one of its own for each row of W (layer scale)
override FACTORS_AT: u32 = 0u;    // where that of row 0 stands in bias
override SCALE: f32 = 1.0;        // finished() multiplies by it

const SILU = 0u;       // x * sigmoid(x)
const GELU_TANH = 1u;  // 0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))
const GELU = 2u;       // 0.5 x (1 + erf(x / sqrt 2))
const RELU = 3u;       // max(x, 0)
const RELU2 = 4u;      // max(x, 0)^2

// 1 - erf(z) for z >= 0.
fn erfc_of(z: f32) -> f32 {
  let t = 1.0 / (1.0 + 0.3275911 * z);
  let poly = t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429))));
  return poly * exp(-min(z * z, 80.0));
}

fn activate(v: f32) -> f32 {
  if (ACTIVATION == GELU_TANH) {
    // tanh overflows to NaN on some GPUs; at 10 it is 1 in f32.
    return 0.5 * v * (1.0 + tanh(clamp(0.7978845608028654 * (v + 0.044715 * v * v * v), -10.0, 10.0)));
  }
  if (ACTIVATION == GELU) {
    let tail = 0.5 * erfc_of(abs(v) * 0.7071067811865476);
    if (v < 0.0) { return v * tail; }
    return v * (1.0 - tail);
  }
  if (ACTIVATION == RELU) { return max(v, 0.0); }
  if (ACTIVATION == RELU2) {
    let positive = max(v, 0.0);
    return positive * positive;
  }
  return v / (1.0 + exp(min(-v, 80.0)));
}

// What is stored or added of a product with its bias; `row` of W.
fn finished(product: f32, row: u32) -> f32 {
  var v = product;
  if (ACTIVATE) { v = activate(v); }
  if (FACTORS) { v *= bias[FACTORS_AT + row]; }
  return v * SCALE;
}
