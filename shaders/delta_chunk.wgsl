// delta_chunk.wgsl: the part of a gated DeltaNet that needs one chunk of 64 rows alone, and no state. With
// g_i the sum of log alpha from the chunk's first row to row i, and G_ij = exp(g_i - g_j) for j <= i:
//   A_ij = beta_i (k_i . k_j) G_ij for j < i, else 0;   P_ij = (q_i . k_j) G_ij for j <= i, else 0;
//   (I + A) U = beta v;   (I + A) W = beta exp(g) k.
// The corrections of the chunk are then D = U - W S (delta_scan.wgsl), S the state before it.
//   Yang et al. 2024, arXiv:2406.06484 and arXiv:2412.06464 (the WY form). Reference: tests/ops/test_delta.py
//
//   binding  name     type       shape                access
//   0        mixed    f32        [T, 2 HK DK + HV DV]  read_write   q|k|v; of whole chunks U replaces v
//   1        gates    vec2<f32>  [T, HV]              read_write   (log alpha, beta); of whole chunks g replaces log alpha
//   2        step     Step       -                    read
//   3        scratch  vec4<f32>  [T, PITCH / 4]       write        see below
//
// In row r of a chunk, scratch has for each head [320]: the chunk's 64 rows of W, then of exp(g) q, for channel 2 r;
// the same for channel 2 r + 1; then row r of P. So products with W and q read many rows of a channel side by side.
//
// Dispatch (HV, floor(T / 64), 1): a workgroup a value head and a chunk. All exponents are <= 0. The products of q and k
// are tiles of 4 x 4 a thread, over slices of 16 channels in workgroup memory. The two systems are solved by forward
// substitution, a column a thread, in blocks of 16 rows. What is right of a diagonal block of P is not written.
// COMPACT takes blocks of 4 rows instead: software adapters take long to compile each place that reads memory.
// DK, DV <= 128, multiples of 4. Libraries before it: step, delta_chunks.

override HK: u32;
override HV: u32;
override DK: u32;
override DV: u32;
override PITCH: u32;
override COMPACT: bool = false;

@group(0) @binding(0) var<storage, read_write> mixed: array<f32>;
@group(0) @binding(1) var<storage, read_write> gates: array<vec2<f32>>;
@group(0) @binding(2) var<storage, read> step: Step;
@group(0) @binding(3) var<storage, read_write> scratch: array<vec4<f32>>;

const WG = 256u;
const SLICE = 16u;  // channels in workgroup memory
const HEAD = 80u;   // quads of a head in a row of scratch
const LINE = 33u;   // quads of a channel there: 16 of q, 16 of k, and one against bank conflicts

// First the slices, then A by columns: blocks of 16 columns, each with the rows from its first one on.
var<workgroup> pool: array<vec4<f32>, 640>;
var<workgroup> logs: array<f32, CHUNK>;
var<workgroup> sums: array<f32, CHUNK>;   // g
var<workgroup> betas: array<f32, CHUNK>;

// Rows of channel c, 0 where there is no such channel.
fn four_rows(row: u32, base: u32, c: u32) -> vec4<f32> {
  let width = 2u * HK * DK + HV * DV;
  var found = vec4<f32>(0.0);
  if (c < DK) {
    let at = row * width + base + c;
    found = vec4<f32>(mixed[at], mixed[at + width], mixed[at + 2u * width], mixed[at + 3u * width]);
  }
  return found;
}

// Where the columns 16 b .. of A begin in the pool, and how many quads a column has there.
fn block_start(b: u32) -> u32 { return 32u * b * (9u - b); }

fn block_pitch(b: u32) -> u32 { return 16u - 4u * b; }

// Four rows of P and A.
struct Rows {
  i: vec4<u32>,
  g: vec4<f32>,
  beta: vec4<f32>,
}

// Of products of these rows with row j of k: what decay leaves of those that are not above the diagonal, or on it.
fn below(rows: Rows, j: u32, products: vec4<f32>) -> vec4<f32> {
  let ratio = exp(clamp(rows.g - vec4<f32>(sums[j]), vec4<f32>(-80.0), vec4<f32>(0.0)));
  return products * ratio * vec4<f32>(rows.i >= vec4<u32>(j));
}

fn strictly_below(rows: Rows, j: u32, products: vec4<f32>) -> vec4<f32> {
  return rows.beta * below(rows, j, products) * vec4<f32>(rows.i > vec4<u32>(j));
}

// Four columns of four rows of A.
fn lower(at: u32, pitch: u32) -> mat4x4<f32> {
  return mat4x4<f32>(pool[at], pool[at + pitch], pool[at + 2u * pitch], pool[at + 3u * pitch]);
}

// Rows i .. i + 3 and columns j .. j + 3 of A, j <= i.
fn lower_at(i: u32, j: u32) -> mat4x4<f32> {
  let pitch = block_pitch(j / 16u);
  return lower(block_start(j / 16u) + j % 16u * pitch + i / 4u - j / 16u * 4u, pitch);
}

// x of (I + m) x = given, m strictly lower.
fn substituted(m: mat4x4<f32>, given: vec4<f32>) -> vec4<f32> {
  var x = given;
  x -= m[0] * x.x;
  x -= m[1] * x.y;
  x -= m[2] * x.z;
  return x;
}

// Where scratch has a channel of W, and 16 quads further of exp(g) q.
fn channel_place(start: u32, head: u32, c: u32) -> u32 {
  return (start + c / 2u) * (PITCH / 4u) + head * HEAD + c % 2u * 32u;
}

// A column of the right sides, v or k.
struct Column {
  source: u32,    // of row 0 in mixed; where U goes, too
  solution: u32,  // of row 0 of W in scratch
  is_value: bool,
}

fn right_side(column: Column, i: u32) -> f32 {
  let given = betas[i] * mixed[column.source + i * (2u * HK * DK + HV * DV)];
  if (column.is_value) { return given; }
  return given * decayed(sums[i]);
}

fn right_sides(column: Column, i: u32) -> vec4<f32> {
  return vec4<f32>(
    right_side(column, i), right_side(column, i + 1u), right_side(column, i + 2u), right_side(column, i + 3u));
}

fn found(column: Column, i: u32) -> vec4<f32> {
  let width = 2u * HK * DK + HV * DV;
  let at = column.source + i * width;
  if (column.is_value) {
    return vec4<f32>(mixed[at], mixed[at + width], mixed[at + 2u * width], mixed[at + 3u * width]);
  }
  return scratch[column.solution + i / 4u];
}

fn keep(column: Column, i: u32, x: vec4<f32>) {
  if (column.is_value) {
    let width = 2u * HK * DK + HV * DV;
    let at = column.source + i * width;
    mixed[at] = x.x;
    mixed[at + width] = x.y;
    mixed[at + 2u * width] = x.z;
    mixed[at + 3u * width] = x.w;
  } else {
    scratch[column.solution + i / 4u] = x;
  }
}

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
  if (group.y >= whole_chunks()) {
    return;
  }
  let head = group.x;
  let key_head = head / (HV / HK);
  let start = first_chunk() + group.y * CHUNK;
  let width = 2u * HK * DK + HV * DV;

  if (thread < CHUNK) {
    let gate = gates[(start + thread) * HV + head];
    logs[thread] = gate.x;
    betas[thread] = gate.y;
  }
  workgroupBarrier();
  if (thread < CHUNK) {
    var sum = 0.0;
    for (var i = 0u; i < CHUNK; i++) {
      if (i <= thread) { sum += logs[i]; }
    }
    sums[thread] = sum;
    gates[(start + thread) * HV + head] = vec2<f32>(sum, betas[thread]);
  }
  workgroupBarrier();

  // Products of rows 4 a .. of q and k with rows 4 b .. of k: vectors over the former, one for each of the latter.
  let a = thread / 16u;
  let b = thread % 16u;
  var q0 = vec4<f32>(0.0);
  var q1 = vec4<f32>(0.0);
  var q2 = vec4<f32>(0.0);
  var q3 = vec4<f32>(0.0);
  var k0 = vec4<f32>(0.0);
  var k1 = vec4<f32>(0.0);
  var k2 = vec4<f32>(0.0);
  var k3 = vec4<f32>(0.0);
  let i = vec4<u32>(4u * a) + vec4<u32>(0u, 1u, 2u, 3u);
  let g = vec4<f32>(sums[i.x], sums[i.y], sums[i.z], sums[i.w]);
  let factor = exp(clamp(g, vec4<f32>(-80.0), vec4<f32>(0.0)));
  var next_q = vec4<f32>(0.0);
  var next_k = next_q;
  if (!COMPACT) {
    next_q = four_rows(start + 4u * a, key_head * DK, b);
    next_k = four_rows(start + 4u * a, (HK + key_head) * DK, b);
  }
  for (var first = 0u; first < DK; first += SLICE) {
    if (COMPACT) {
      next_q = four_rows(start + 4u * a, key_head * DK, first + b);
      next_k = four_rows(start + 4u * a, (HK + key_head) * DK, first + b);
    }
    workgroupBarrier();
    pool[b * LINE + a] = next_q;
    pool[b * LINE + 16u + a] = next_k;
    if (first + b < DK) { scratch[channel_place(start, head, first + b) + 16u + a] = next_q * factor; }
    workgroupBarrier();
    if (!COMPACT) {
      next_q = four_rows(start + 4u * a, key_head * DK, first + SLICE + b);
      next_k = four_rows(start + 4u * a, (HK + key_head) * DK, first + SLICE + b);
    }
    for (var c = 0u; c < SLICE; c++) {
      let q = pool[c * LINE + a];
      let k = pool[c * LINE + 16u + a];
      let other = pool[c * LINE + 16u + b];
      q0 += q * other.x;
      q1 += q * other.y;
      q2 += q * other.z;
      q3 += q * other.w;
      k0 += k * other.x;
      k1 += k * other.y;
      k2 += k * other.z;
      k3 += k * other.w;
    }
  }
  workgroupBarrier();
  if (b / 4u <= a / 4u) {
    let beta = vec4<f32>(betas[i.x], betas[i.y], betas[i.z], betas[i.w]);
    let rows = Rows(i, g, beta);
    let pitch = block_pitch(b / 4u);
    let j = 4u * b;
    let at = block_start(b / 4u) + j % 16u * pitch + a - 4u * (b / 4u);
    pool[at] = strictly_below(rows, j, k0);
    pool[at + pitch] = strictly_below(rows, j + 1u, k1);
    pool[at + 2u * pitch] = strictly_below(rows, j + 2u, k2);
    pool[at + 3u * pitch] = strictly_below(rows, j + 3u, k3);
    let p = transpose(mat4x4<f32>(
      below(rows, j, q0), below(rows, j + 1u, q1), below(rows, j + 2u, q2), below(rows, j + 3u, q3)));
    let place = (start + 4u * a) * (PITCH / 4u) + head * HEAD + 64u + b;
    scratch[place] = p[0];
    scratch[place + PITCH / 4u] = p[1];
    scratch[place + 2u * (PITCH / 4u)] = p[2];
    scratch[place + 3u * (PITCH / 4u)] = p[3];
  }
  workgroupBarrier();

  for (var c = thread; c < DV + DK; c += WG) {
    var column: Column;
    column.is_value = c < DV;
    if (column.is_value) {
      column.source = start * width + 2u * HK * DK + head * DV + c;
    } else {
      column.source = start * width + (HK + key_head) * DK + c - DV;
      column.solution = channel_place(start, head, c - DV);
    }
    for (var i = 0u; COMPACT && i < CHUNK; i += 4u) {
      var x = right_sides(column, i);
      for (var j = 0u; j < i; j += 4u) { x -= lower_at(i, j) * found(column, j); }
      keep(column, i, substituted(lower_at(i, i), x));
    }
    for (var block = 0u; !COMPACT && block < 4u; block++) {
      let i = 16u * block;
      var x0 = right_sides(column, i);
      var x1 = right_sides(column, i + 4u);
      var x2 = right_sides(column, i + 8u);
      var x3 = right_sides(column, i + 12u);
      for (var j = 0u; j < i; j += 4u) {
        let x = found(column, j);
        let pitch = block_pitch(j / 16u);
        let at = block_start(j / 16u) + j % 16u * pitch + 4u * (block - j / 16u);
        x0 -= lower(at, pitch) * x;
        x1 -= lower(at + 1u, pitch) * x;
        x2 -= lower(at + 2u, pitch) * x;
        x3 -= lower(at + 3u, pitch) * x;
      }
      let pitch = block_pitch(block);
      let at = block_start(block);
      x0 = substituted(lower(at, pitch), x0);
      x1 = substituted(lower(at + 4u * pitch + 1u, pitch), x1 - lower(at + 1u, pitch) * x0);
      x2 -= lower(at + 2u, pitch) * x0 + lower(at + 4u * pitch + 2u, pitch) * x1;
      x2 = substituted(lower(at + 8u * pitch + 2u, pitch), x2);
      x3 -= lower(at + 3u, pitch) * x0 + lower(at + 4u * pitch + 3u, pitch) * x1 + lower(at + 8u * pitch + 3u, pitch) * x2;
      x3 = substituted(lower(at + 12u * pitch + 3u, pitch), x3);
      keep(column, i, x0);
      keep(column, i + 4u, x1);
      keep(column, i + 8u, x2);
      keep(column, i + 12u, x3);
    }
  }
}
