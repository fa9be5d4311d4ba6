// delta_out.wgsl: the last part of a gated DeltaNet's results (P, D as in delta_chunk.wgsl), and the gated RMSNorm of
// each value head, in place: in whole chunks y <- y + P D; then y <- y / sqrt(mean(y^2) + EPS) * weight * silu(z).
//   Reference: tests/ops/test_delta.py
//
//   binding  name     type       shape                       access
//   0        proj     f32        [T, C + HV DV + 2 HV]       read         z begins at C = 2 HK DK + HV DV
//   1        mixed    vec4<f32>  [T, C / 4]                  read         D in the place of v
//   2        scratch  vec4<f32>  [T, PITCH / 4]              read         as delta_chunk.wgsl leaves it: P
//   3        weight   f32        [DV]                        read
//   4        step     Step       -                           read
//   5        y        f32        [T, HV DV]                  read_write
//
// Dispatch (HV, ceil(T / ROWS) + 1, 1): a workgroup a value head and ROWS rows from a position that is a multiple of ROWS
// on, ROWS = 512 / ACROSS; a thread has 4 rows x 4 columns. Rows from step.rows on do nothing. DV <= 256.
// Libraries before it: step, delta_chunks.

override HK: u32;
override HV: u32;
override DK: u32;
override DV: u32;
override PITCH: u32;
override ACROSS: u32;  // threads side by side: 32 where that is enough for DV, else 64
override EPS: f32 = 1e-6;

@group(0) @binding(0) var<storage, read> proj: array<f32>;
@group(0) @binding(1) var<storage, read> mixed: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> scratch: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> weight: array<f32>;
@group(0) @binding(4) var<storage, read> step: Step;
@group(0) @binding(5) var<storage, read_write> y: array<f32>;

const HEAD = 80u;                         // quads of a head in a row of scratch
var<workgroup> squares: array<f32, 512>;  // [ROWS, ACROSS]
var<workgroup> sums: array<f32, 128>;     // [ROWS, 8]

fn opened(z: vec4<f32>) -> vec4<f32> {
  return z / (vec4<f32>(1.0) + exp(min(-z, vec4<f32>(80.0))));
}

// Four columns of a row, 0 where there are none.
fn result(row: u32, valid: bool, head: u32, column: u32) -> vec4<f32> {
  var found = vec4<f32>(0.0);
  if (valid) {
    let at = (row * HV + head) * DV + column;
    found = vec4<f32>(y[at], y[at + 1u], y[at + 2u], y[at + 3u]);
  }
  return found;
}

fn keep(row: u32, valid: bool, head: u32, column: u32, place: u32, o: vec4<f32>) {
  if (!valid) {
    return;
  }
  var square = 0.0;
  for (var i = 0u; i < 8u; i++) { square += sums[place * 8u + i]; }
  let z = row * (2u * HK * DK + 2u * HV * DV + 2u * HV) + 2u * HK * DK + HV * DV + head * DV + column;
  let w = vec4<f32>(weight[column], weight[column + 1u], weight[column + 2u], weight[column + 3u]);
  let given = vec4<f32>(proj[z], proj[z + 1u], proj[z + 2u], proj[z + 3u]);
  let found = o / sqrt(square / f32(DV) + EPS) * w * opened(given);
  let at = (row * HV + head) * DV + column;
  y[at] = found.x;
  y[at + 1u] = found.y;
  y[at + 2u] = found.z;
  y[at + 3u] = found.w;
}

@compute @workgroup_size(128)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
  let head = group.x;
  let rows = step.rows;
  let height = 512u / ACROSS;
  let block = step.pos / height + group.y;          // of `height` positions
  let begin = i32(block * height) - i32(step.pos);  // its first row
  if (begin >= i32(rows)) {
    return;
  }
  let column = 4u * (thread % ACROSS);
  let place = 4u * (thread / ACROSS);
  let first = u32(begin + i32(place));  // wraps for rows before the pass, which are not valid
  let has = column < DV;
  let valid = vec4<bool>(
    has && first < rows, has && first + 1u < rows, has && first + 2u < rows, has && first + 3u < rows);
  var o0 = result(first, valid.x, head, column);
  var o1 = result(first + 1u, valid.y, head, column);
  var o2 = result(first + 2u, valid.z, head, column);
  var o3 = result(first + 3u, valid.w, head, column);

  let within = block * height % CHUNK;  // of its chunk
  let start = begin - i32(within);      // the chunk's first row
  if (has && start >= 0 && start < i32(first_chunk() + whole_chunks() * CHUNK)) {
    let width = (2u * HK * DK + HV * DV) / 4u;
    let line = PITCH / 4u;
    var at = first * line + head * HEAD + 64u;
    var from_row = u32(start) * width + (2u * HK * DK + head * DV + column) / 4u;
    for (var j = 0u; j < within + height; j += 4u) {
      let d0 = mixed[from_row];
      let d1 = mixed[from_row + width];
      let d2 = mixed[from_row + 2u * width];
      let d3 = mixed[from_row + 3u * width];
      let p0 = scratch[at];
      let p1 = scratch[at + line];
      let p2 = scratch[at + 2u * line];
      let p3 = scratch[at + 3u * line];
      o0 += p0.x * d0 + p0.y * d1 + p0.z * d2 + p0.w * d3;
      o1 += p1.x * d0 + p1.y * d1 + p1.z * d2 + p1.w * d3;
      o2 += p2.x * d0 + p2.y * d1 + p2.z * d2 + p2.w * d3;
      o3 += p3.x * d0 + p3.y * d1 + p3.z * d2 + p3.w * d3;
      at++;
      from_row += 4u * width;
    }
  }

  let across = thread % ACROSS;
  squares[place * ACROSS + across] = dot(o0, o0);
  squares[(place + 1u) * ACROSS + across] = dot(o1, o1);
  squares[(place + 2u) * ACROSS + across] = dot(o2, o2);
  squares[(place + 3u) * ACROSS + across] = dot(o3, o3);
  workgroupBarrier();
  if (thread < 8u * height) {
    var sum = 0.0;
    for (var i = 0u; i < ACROSS / 8u; i++) { sum += squares[thread * ACROSS / 8u + i]; }
    sums[thread] = sum;
  }
  workgroupBarrier();
  keep(first, valid.x, head, column, place, o0);
  keep(first + 1u, valid.y, head, column, place + 1u, o1);
  keep(first + 2u, valid.z, head, column, place + 2u, o2);
  keep(first + 3u, valid.w, head, column, place + 3u, o3);
}
