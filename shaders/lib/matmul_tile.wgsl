// matmul_tile.wgsl: which rows of W make the columns of a workgroup's tile, and where a thread's products go.
//
// The kernel supplies: override TILE_N (products of a row of the tile), override ROW_BASE. A thread has the columns
// tn + j TILE_N / 4, j = 0..3. GATED: half of the columns are gates, the other half their ups (N/2 rows further on in W).
// After: step, gate, matmul_out.

// Row of W behind column c of workgroup g's tile.
fn weight_row(g: u32, c: u32) -> u32 {
  if (EPILOGUE == GATED) {
    let half = TILE_N / 2u;
    if (c >= half) { return ROW_BASE + N / 2u + min(g * half + c - half, N / 2u - 1u); }
    return ROW_BASE + min(g * half + c, N / 2u - 1u);
  }
  return ROW_BASE + min(g * TILE_N + c, N - 1u);
}

// The four products of a row; g: workgroup along N, tn: the thread's first column.
fn put_row(row: u32, g: u32, tn: u32, acc: vec4<f32>) {
  if (row >= step.rows) { return; }
  let apart = TILE_N / 4u;
  if (EPILOGUE == GATED) {
    let col = g * (TILE_N / 2u) + tn;
    put_gated(row, col, acc.x, acc.z);
    put_gated(row, col + apart, acc.y, acc.w);
  } else {
    let col = g * TILE_N + tn;
    put(row, col, acc.x);
    put(row, col + apart, acc.y);
    put(row, col + 2u * apart, acc.z);
    put(row, col + 3u * apart, acc.w);
  }
}
