// delta_chunk.wgsl: what a gated DeltaNet can do for each chunk of 64 rows alone, before its states are known. With
// g_i the sum of log alpha from the chunk's first row to row i, and G_ij = exp(g_i - g_j) for j <= i:
//   A_ij = beta_i (k_i . k_j) G_ij for j < i, else 0;   P_ij = (q_i . k_j) G_ij for j <= i, else 0;
//   (I + A) U = beta v;   (I + A) W = beta exp(g) k.
// The corrections of the chunk are then D = U - W S (delta_chunk_scan.wgsl), S the state before it.
//   Yang et al. 2024, arXiv:2406.06484 and arXiv:2412.06464 (the WY form). Reference: tests/ops/test_delta.py
//
//   binding  name     type       shape                access
//   0        mixed    f32        [T, 2 HK DK + HV DV]  read_write   q|k|v; of whole chunks U replaces v
//   1        gates    vec2<f32>  [T, HV]              read_write   (log alpha, beta); of whole chunks g replaces log alpha
//   2        step     Step       -                    read
//   3        scratch  f32        [T, PITCH]           write        of each head [DK + 64]: W, then P
//
// Dispatch (HV, floor(T / 64), 1): a workgroup a value head and a chunk. All exponents are <= 0. The products of q and k
// are tiles of 4 x 4 a thread, over slices of 16 channels in workgroup memory. The two systems are solved by forward
// substitution, a column a thread, in blocks of 16 rows; of P, what lies right of a block on the diagonal is not written.
// DK, DV <= 128, multiples of 4. Libraries before it: step, delta_chunks.

override HK: u32;
override HV: u32;
override DK: u32;
override DV: u32;
override PITCH: u32;

@group(0) @binding(0) var<storage, read_write> mixed: array<f32>;
@group(0) @binding(1) var<storage, read_write> gates: array<vec2<f32>>;
@group(0) @binding(2) var<storage, read> step: Step;
@group(0) @binding(3) var<storage, read_write> scratch: array<f32>;

const WG = 256u;
const SLICE = 16u;  // channels in workgroup memory
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
  place: u32,  // of P in scratch
}

// Writes P of column j and returns A, from the products of the rows of q and k with row j of k.
fn kept_products(rows: Rows, j: u32, q: vec4<f32>, k: vec4<f32>) -> vec4<f32> {
  let ratio = exp(clamp(rows.g - vec4<f32>(sums[j]), vec4<f32>(-80.0), vec4<f32>(0.0)));
  let p = q * ratio * vec4<f32>(rows.i >= vec4<u32>(j));
  scratch[rows.place + j] = p.x;
  scratch[rows.place + PITCH + j] = p.y;
  scratch[rows.place + 2u * PITCH + j] = p.z;
  scratch[rows.place + 3u * PITCH + j] = p.w;
  return rows.beta * k * ratio * vec4<f32>(rows.i > vec4<u32>(j));
}

// Four columns of four rows of A.
fn lower(at: u32, pitch: u32) -> mat4x4<f32> {
  return mat4x4<f32>(pool[at], pool[at + pitch], pool[at + 2u * pitch], pool[at + 3u * pitch]);
}

// Where rows 4 i .. of column j stand, for a block i / 4 that is not above the diagonal.
fn place(i: u32, j: u32) -> u32 {
  let b = j / 16u;
  return block_start(b) + (j % 16u) * block_pitch(b) + i - 4u * b;
}

// Rows 4 i .. of a product of two parts of the pool, the left one with columns first .. end - 1 (multiples of 4), whose
// rows the right one's column j has.
fn product(i: u32, j: u32, first: u32, end: u32) -> vec4<f32> {
  var sum = vec4<f32>(0.0);
  for (var m = first; m < end; m += 4u) { sum += lower(place(i, m), block_pitch(m / 16u)) * pool[place(m / 4u, j)]; }
  return sum;
}

// Column c of v (c < DV) or exp(g) k, in a row of mixed.
fn right_side(row: u32, c: u32, head: u32, scale: f32) -> f32 {
  if (c < DV) { return mixed[row + 2u * HK * DK + head * DV + c]; }
  return mixed[row + (HK + head / (HV / HK)) * DK + min(c - DV, DK - 1u)] * scale;
}

// Column c of U or W, in four rows.
fn keep(row: u32, c: u32, head: u32, x: vec4<f32>) {
  let width = 2u * HK * DK + HV * DV;
  if (c < DV) {
    let at = row * width + 2u * HK * DK + head * DV + c;
    mixed[at] = x.x;
    mixed[at + width] = x.y;
    mixed[at + 2u * width] = x.z;
    mixed[at + 3u * width] = x.w;
  } else if (c < DV + DK) {
    let at = row * PITCH + head * (DK + CHUNK) + c - DV;
    scratch[at] = x.x;
    scratch[at + PITCH] = x.y;
    scratch[at + 2u * PITCH] = x.z;
    scratch[at + 3u * PITCH] = x.w;
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
  let home = head * (DK + CHUNK);  // in a row of scratch

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
  var next_q = four_rows(start + 4u * a, key_head * DK, b);
  var next_k = four_rows(start + 4u * a, (HK + key_head) * DK, b);
  for (var first = 0u; first < DK; first += SLICE) {
    workgroupBarrier();
    pool[b * LINE + a] = next_q;
    pool[b * LINE + 16u + a] = next_k;
    workgroupBarrier();
    next_q = four_rows(start + 4u * a, key_head * DK, first + SLICE + b);
    next_k = four_rows(start + 4u * a, (HK + key_head) * DK, first + SLICE + b);
    for (var c = 0u; c < SLICE; c += 2u) {
      let at = c * LINE;
      let q = pool[at + a];
      let k = pool[at + 16u + a];
      let other = pool[at + 16u + b];
      let q_next = pool[at + LINE + a];
      let k_next = pool[at + LINE + 16u + a];
      let other_next = pool[at + LINE + 16u + b];
      q0 += q * other.x + q_next * other_next.x;
      q1 += q * other.y + q_next * other_next.y;
      q2 += q * other.z + q_next * other_next.z;
      q3 += q * other.w + q_next * other_next.w;
      k0 += k * other.x + k_next * other_next.x;
      k1 += k * other.y + k_next * other_next.y;
      k2 += k * other.z + k_next * other_next.z;
      k3 += k * other.w + k_next * other_next.w;
    }
  }
  workgroupBarrier();
  if (b / 4u <= a / 4u) {
    let i = vec4<u32>(4u * a) + vec4<u32>(0u, 1u, 2u, 3u);
    let g = vec4<f32>(sums[i.x], sums[i.y], sums[i.z], sums[i.w]);
    let beta = vec4<f32>(betas[i.x], betas[i.y], betas[i.z], betas[i.w]);
    let rows = Rows(i, g, beta, (start + 4u * a) * PITCH + home + DK);
    let pitch = block_pitch(b / 4u);
    let at = block_start(b / 4u) + (4u * b % 16u) * pitch + a - 4u * (b / 4u);
    pool[at] = kept_products(rows, 4u * b, q0, k0);
    pool[at + pitch] = kept_products(rows, 4u * b + 1u, q1, k1);
    pool[at + 2u * pitch] = kept_products(rows, 4u * b + 2u, q2, k2);
    pool[at + 3u * pitch] = kept_products(rows, 4u * b + 3u, q3, k3);
  }
  workgroupBarrier();

  // (I + A)^-1 in the place of A: first of 4 x 4 blocks on the diagonal, then of ever larger ones, of whose halves the
  // inverses P, Q are known: [P 0; B Q]^-1 stands where B was as -Q B P.
  var found = vec4<f32>(0.0);
  if (thread < CHUNK) {
    found = vec4<f32>(vec4<u32>(0u, 1u, 2u, 3u) == vec4<u32>(thread % 4u));
    let m = lower(place(thread / 4u, thread - thread % 4u), block_pitch(thread / 16u));
    found -= m[0] * found.x;
    found -= m[1] * found.y;
    found -= m[2] * found.z;
  }
  workgroupBarrier();
  if (thread < CHUNK) { pool[place(thread / 4u, thread)] = found; }
  for (var half = 4u; half < CHUNK; half *= 2u) {
    // A thread has four rows of a column of such a B.
    let column = thread % half;
    let quad = thread / half % (half / 4u);
    let begin = thread / (half * half / 4u) * 2u * half;
    let j = begin + column;
    let i = (begin + half) / 4u + quad;
    let there = begin < CHUNK;
    workgroupBarrier();
    if (there) { found = product(i, j, max(begin, j - j % 16u), begin + half); }
    workgroupBarrier();
    if (there) { pool[place(i, j)] = found; }
    workgroupBarrier();
    if (there) { found = product(i, j, begin + half, min(begin + 2u * half, (i / 4u + 1u) * 16u)); }
    workgroupBarrier();
    if (there) { pool[place(i, j)] = -found; }
  }
  workgroupBarrier();

  // U and W: rows 4 a .. of columns first + b, + 16, + 32, + 48.
  for (var first = 0u; first < DV + DK; first += 64u) {
    let c = vec4<u32>(first + b) + vec4<u32>(0u, 16u, 32u, 48u);
    var x0 = vec4<f32>(0.0);
    var x1 = vec4<f32>(0.0);
    var x2 = vec4<f32>(0.0);
    var x3 = vec4<f32>(0.0);
    for (var j = 0u; j < 4u * a + 4u; j++) {
      let t = pool[place(a, j)] * betas[j];
      let scale = decayed(sums[j]);
      let row = (start + j) * width;
      x0 += t * right_side(row, c.x, head, scale);
      x1 += t * right_side(row, c.y, head, scale);
      x2 += t * right_side(row, c.z, head, scale);
      x3 += t * right_side(row, c.w, head, scale);
    }
    workgroupBarrier();  // whoever still reads v
    keep(start + 4u * a, c.x, head, x0);
    keep(start + 4u * a, c.y, head, x1);
    keep(start + 4u * a, c.z, head, x2);
    keep(start + 4u * a, c.w, head, x3);
  }
}
