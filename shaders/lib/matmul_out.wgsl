// matmul_out.wgsl: where a product of a prefill chunk goes, for both forms of matmul.
//
// The kernel supplies: var bias: array<f32> [BIAS_OFFSET + N], var y: array<f32> [T, Y_COLS]. It supplies the kernel: put,
// put_gated, both for rows that the caller has found valid. After: gate.

override N: u32;              // rows of W
override Y_COLS: u32;         // row length of y
override Y_OFFSET: u32 = 0u;  // where the first product goes in a row of y
override BIAS_OFFSET: u32 = 0u;
override BIAS: bool = false;
override EPILOGUE: u32 = 0u;  // the constants below

const STORE = 0u;
const ADD = 1u;       // Y += (the residual); both as gate.wgsl's finished() makes it
const GATED = 2u;     // rows of W are [gate; up]: Y = activate(gate) * up
const MULTIPLY = 3u;  // Y holds the gate: Y = activate(Y) * (X W^T)

fn with_bias(value: f32, row: u32) -> f32 {
  if (BIAS) { return value + bias[BIAS_OFFSET + row]; }
  return value;
}

fn put(row: u32, col: u32, sum: f32) {
  if (col >= N) { return; }
  let at = row * Y_COLS + Y_OFFSET + col;
  let value = with_bias(sum, col);
  if (EPILOGUE == ADD) {
    y[at] += finished(value, col);
  } else if (EPILOGUE == MULTIPLY) {
    y[at] = activate(y[at]) * value;
  } else {
    y[at] = finished(value, col);
  }
}

fn put_gated(row: u32, col: u32, gate: f32, up: f32) {
  if (col >= N / 2u) { return; }
  y[row * Y_COLS + Y_OFFSET + col] = activate(with_bias(gate, col)) * with_bias(up, col + N / 2u);
}
