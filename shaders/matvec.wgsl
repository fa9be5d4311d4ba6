// matvec.wgsl: y = W x for one token, fused with what comes before and after it in a decoder layer.
//   NORM: x is taken as RMSNorm(x) = x / sqrt(mean(x^2) + EPS) * (norm_weight + NORM_OFFSET) (Zhang & Sennrich 2019,
//   arXiv:1910.07467); the factor is a sum beside the dot products and is applied after them.
//   Reference: tests/ops/test_matvec.py
//
//   binding  name         type        shape             access
//   0        x            InputWord   [T, K] f32        read
//   1        weight       WeightWord  [>= N, K]         read         see graph/matrix.py
//   2        scales       u32         [>= N, K/GROUP]   read         pairs; dummy for floats
//   3        norm_weight  InputWord   [K] f32           read         dummy without NORM
//   4        bias         f32         [BIAS_OFFSET + N] read         dummy without BIAS
//   5        step         Step        -                 read
//   6        y            f32         [Y_OFFSET + N]    read_write   N / (R / OUTPUTS) values
//
// Dispatch: workgroups of WG / LANES row groups, a row group gives OUTPUTS values; the grid may be two-dimensional
// (workgroup y * width + x). LANES threads share a row group's R rows, each takes every LANES-th chunk of 32 elements.
// Libraries before it: step, chunk, (scales,) weight_<format> or weight_<format>_any + chunk_any, input_direct or
// input_staged or input_any, sums, reduce_workgroup or reduce_subgroup, gate + matvec_out or causal_conv + matvec_conv.

override N: u32;
override K: u32;
override WG: u32 = 128u;        // threads, <= 256
override LANES: u32 = 32u;      // threads a row group: divides WG
override R: u32 = 4u;           // rows of W a row group works on, at most 8
override OUTPUTS: u32 = 4u;     // R; R / 2 or R / 3 where a value is made of rows in the halves or thirds of W
override ROW_BASE: u32 = 0u;    // the N rows begin at this row of the matrix
override Y_OFFSET: u32 = 0u;    // where their first product goes in y
override BIAS_OFFSET: u32 = 0u;
override LAST_ROW: bool = false;  // x is row step.rows - 1, else row 0
override NORM: bool = false;
override NORM_OFFSET: f32 = 0.0;  // 1.0 for Gemma, whose checkpoints store weight - 1
override EPS: f32 = 1e-6;
override BIAS: bool = false;

@group(0) @binding(0) var<storage, read> x: array<InputWord>;
@group(0) @binding(1) var<storage, read> weight: array<WeightWord>;
@group(0) @binding(2) var<storage, read> scales: array<u32>;
@group(0) @binding(3) var<storage, read> norm_weight: array<InputWord>;
@group(0) @binding(4) var<storage, read> bias: array<f32>;
@group(0) @binding(5) var<storage, read> step: Step;
@group(0) @binding(6) var<storage, read_write> y: array<f32>;

fn input_row() -> u32 {
  if (LAST_ROW) { return step.rows - 1u; }
  return 0u;
}

// Row of W behind local row i; rows behind the end repeat the last, and their result is not written.
fn weight_row(first: u32, i: u32) -> u32 {
  let section = N / (R / OUTPUTS);
  return ROW_BASE + i / OUTPUTS * section + min(first + i % OUTPUTS, section - 1u);
}

struct Rows { r0: Packed, r1: Packed, r2: Packed, r3: Packed, r4: Packed, r5: Packed, r6: Packed, r7: Packed }

// A chunk of each of the row group's rows.
fn load_rows(first: u32, chunk: u32) -> Rows {
  var rows: Rows;
  rows.r0 = weight_load(weight_row(first, 0u), chunk);
  if (R > 1u) { rows.r1 = weight_load(weight_row(first, 1u), chunk); }
  if (R > 2u) { rows.r2 = weight_load(weight_row(first, 2u), chunk); }
  if (R > 3u) { rows.r3 = weight_load(weight_row(first, 3u), chunk); }
  if (R > 4u) {
    rows.r4 = weight_load(weight_row(first, 4u), chunk);
    rows.r5 = weight_load(weight_row(first, 5u), chunk);
  }
  if (R > 6u) {
    rows.r6 = weight_load(weight_row(first, 6u), chunk);
    rows.r7 = weight_load(weight_row(first, 7u), chunk);
  }
  return rows;
}

fn row_dot(row: Packed, input: Chunk, input_sum: f32) -> f32 {
  let d = chunk_dot(weight_unpack(row), input);
  if (QUANTISED) {
    let affine = weight_affine(row);
    return affine.x * d + affine.y * input_sum;
  }
  return d;
}

fn with_bias(value: f32, row: u32) -> f32 {
  if (BIAS) { return value + bias[BIAS_OFFSET + row]; }
  return value;
}

@compute @workgroup_size(WG)
fn main(@builtin(local_invocation_index) thread: u32,
        @builtin(workgroup_id) workgroup: vec3<u32>,
        @builtin(num_workgroups) grid: vec3<u32>) {
  let lane = thread % LANES;
  let first = ((workgroup.y * grid.x + workgroup.x) * (WG / LANES) + thread / LANES) * OUTPUTS;
  var lo = vec4<f32>();
  var hi = vec4<f32>();
  let chunks = (K + 31u) / 32u;
  if (lane < OUTPUTS && OUTPUTS <= LANES) { hold(first + lane); }
  for (var begin = 0u; begin < chunks; begin += min(chunks - begin, SEGMENT)) {
    let end = begin + min(chunks - begin, SEGMENT);
    // W is on its way while x is staged, and the next chunk's while this one's is added up. Not where a thread has whole rows:
    // those are software adapters, where nothing is on its way and loads compile slowly.
    var rows: Rows;
    if (LANES > 1u) { rows = load_rows(first, min(begin + lane, chunks - 1u)); }
    stage_input(begin, thread);
    for (var c = begin + lane; c < end; c += LANES) {
      if (LANES == 1u) { rows = load_rows(first, c); }
      let w = rows;
      if (LANES > 1u && c + LANES < end) { rows = load_rows(first, c + LANES); }
      let input = input_chunk(c);
      var input_sum = 0.0;
      if (QUANTISED) { input_sum = chunk_sum(input); }
      lo.x += row_dot(w.r0, input, input_sum);
      if (R > 1u) { lo.y += row_dot(w.r1, input, input_sum); }
      if (R > 2u) { lo.z += row_dot(w.r2, input, input_sum); }
      if (R > 3u) { lo.w += row_dot(w.r3, input, input_sum); }
      if (R > 4u) {
        hi.x += row_dot(w.r4, input, input_sum);
        hi.y += row_dot(w.r5, input, input_sum);
      }
      if (R > 6u) {
        hi.z += row_dot(w.r6, input, input_sum);
        hi.w += row_dot(w.r7, input, input_sum);
      }
    }
  }
  reduce(Sums(lo, hi, squares), thread);

  var factor = 1.0;
  if (NORM) {
    factor = inverseSqrt(total(R) / f32(K) + EPS);
  }
  for (var i = lane; i < OUTPUTS; i += LANES) { put(first + i, i, factor); }
}
