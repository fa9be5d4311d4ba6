// matvec_out.wgsl: where a matvec's products go. After: gate.
//
// The kernel supplies: overrides N, OUTPUTS, Y_OFFSET, with_bias(value, row), total(i), var y.

override EPILOGUE: u32 = 0u;  // the constants below

const STORE = 0u;
const ADD = 1u;       // y += W x (the residual)
const GATED = 2u;     // rows are [gate; up]: y = activate(gate) * up
const MULTIPLY = 3u;  // y holds the gate: y = activate(y) * W x

// Value `row` of y, the i-th of this row group; `factor` is the norm's.
fn put(row: u32, i: u32, factor: f32) {
  let at = Y_OFFSET + row;
  if (EPILOGUE == GATED) {
    if (row < N / 2u) {
      let gate = with_bias(total(i) * factor, row);
      y[at] = activate(gate) * with_bias(total(i + OUTPUTS) * factor, row + N / 2u);
    }
  } else if (row < N) {
    let value = with_bias(total(i) * factor, row);
    if (EPILOGUE == ADD) {
      y[at] += value;
    } else if (EPILOGUE == MULTIPLY) {
      y[at] = activate(y[at]) * value;
    } else {
      y[at] = value;
    }
  }
}
