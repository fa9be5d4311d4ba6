// matvec_out.wgsl: where a matvec's products go. After: gate.
//
// The kernel supplies: overrides N, LANES, OUTPUTS, Y_OFFSET, with_bias(value, row), total(i), var y.

override EPILOGUE: u32 = 0u;  // the constants below

const STORE = 0u;
const ADD = 1u;       // y += W x (the residual); both as gate.wgsl's finished() makes it
const GATED = 2u;     // rows are [gate; up]: y = activate(gate) * up
const MULTIPLY = 3u;  // y holds the gate: y = activate(y) * W x

var<private> held: f32;  // y, where it is read

// Before the products, for the value that this lane will put: what does not depend on them.
fn hold(row: u32) {
  if ((EPILOGUE == ADD || EPILOGUE == MULTIPLY) && row < N) { held = y[Y_OFFSET + row]; }
}

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
    if (OUTPUTS > LANES) { hold(row); }  // there are more than this lane's first
    if (EPILOGUE == ADD) {
      y[at] = held + finished(value, row);
    } else if (EPILOGUE == MULTIPLY) {
      y[at] = activate(held) * value;
    } else {
      y[at] = finished(value, row);
    }
  }
}
