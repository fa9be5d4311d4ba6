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
//   3        scratch  vec4<f32>  [T, PITCH / 4]       write        see below
//
// In row r of a chunk, scratch has of each head [320]: of channels 2 r and 2 r + 1 the chunk's 64 rows of W and of exp(g) q,
// then row r of P. So whoever multiplies with W and q finds many rows of a channel side by side.
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
@group(0) @binding(3) var<storage, read_write> scratch: array<vec4<f32>>;

const WG = 256u;
const SLICE = 16u;  // channels in workgroup memory
const HEAD = 80u;   // quads of a head in a row of scratch
const SIDES = 640u;  // 16 rows x 64 columns of right sides, behind A
const LINE = 33u;   // quads of a channel there: 16 of q, 16 of k, and one against bank conflicts

// First the slices, then A by columns: blocks of 16 columns, each with the rows from its first one on.
var<workgroup> pool: array<vec4<f32>, 896>;
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

// Where rows 4 i .. of column j stand, for a block of 16 x 16 that is not above the diagonal.
fn place(i: u32, j: u32) -> u32 {
  let b = j / 16u;
  return block_start(b) + (j % 16u) * block_pitch(b) + i - 4u * b;
}

// Rows 4 i .. of column j of a product: of columns first .. end - 1 of what the pool has of these rows, with what it has
// of rows first .. end - 1 of the column.
fn product(i: u32, j: u32, first: u32, end: u32) -> vec4<f32> {
  var sum = vec4<f32>(0.0);
  for (var m = first; m < end; m += 4u) { sum += lower(place(i, m), block_pitch(m / 16u)) * pool[place(m / 4u, j)]; }
  return sum;
}

// Where scratch has a channel of W, and 16 quads further of exp(g) q.
fn channel_place(start: u32, head: u32, c: u32) -> u32 {
  return (start + c / 2u) * (PITCH / 4u) + head * HEAD + c % 2u * 32u;
}

// Columns c .. c + 3 of the right sides beta v (c < DV) and beta exp(g) k, in row i of the chunk.
fn right_side(start: u32, head: u32, i: u32, c: u32) -> vec4<f32> {
  var at = (start + i) * (2u * HK * DK + HV * DV);
  var factor = betas[i];
  if (c < DV) {
    at += 2u * HK * DK + head * DV + c;
  } else {
    at += (HK + head / (HV / HK)) * DK + min(c - DV, DK - 4u);
    factor *= decayed(sums[i]);
  }
  return factor * vec4<f32>(mixed[at], mixed[at + 1u], mixed[at + 2u], mixed[at + 3u]);
}

// Four columns of a row of U.
fn keep(row: u32, head: u32, c: u32, u: vec4<f32>) {
  let at = row * (2u * HK * DK + HV * DV) + 2u * HK * DK + head * DV + c;
  mixed[at] = u.x;
  mixed[at + 1u] = u.y;
  mixed[at + 2u] = u.z;
  mixed[at + 3u] = u.w;
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
    let factor = vec4<f32>(decayed(sums[4u * a]), decayed(sums[4u * a + 1u]), decayed(sums[4u * a + 2u]), decayed(sums[4u * a + 3u]));
    if (first + b < DK) { scratch[channel_place(start, head, first + b) + 16u + a] = next_q * factor; }
    workgroupBarrier();
    next_q = four_rows(start + 4u * a, key_head * DK, first + SLICE + b);
    next_k = four_rows(start + 4u * a, (HK + key_head) * DK, first + SLICE + b);
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
    let i = vec4<u32>(4u * a) + vec4<u32>(0u, 1u, 2u, 3u);
    let g = vec4<f32>(sums[i.x], sums[i.y], sums[i.z], sums[i.w]);
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

  // (I + A)^-1 in the place of A: of blocks of 4 x 4 on the diagonal, then of ever larger ones. Where P and Q are the
  // inverses of a block's halves and B stands below, -Q B P is what its own inverse has in the place of B.
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
    // A thread has four rows of a column of a B.
    let begin = thread / (half * half / 4u) * 2u * half;
    let j = begin + thread % half;
    let i = (begin + half) / 4u + thread / half % (half / 4u);
    let mine = begin < CHUNK;
    workgroupBarrier();
    if (mine) { found = product(i, j, max(begin, j - j % 16u), begin + half); }
    workgroupBarrier();
    if (mine) { pool[place(i, j)] = found; }
    workgroupBarrier();
    if (mine) { found = product(i, j, begin + half, min(begin + 2u * half, 16u * (i / 4u + 1u))); }
    workgroupBarrier();
    if (mine) { pool[place(i, j)] = -found; }
  }

  // Its products with the right sides, 64 columns at a time: rows 4 a .. of columns first + 4 b ..
  var next = right_side(start, head, a, 4u * b);
  for (var first = 0u; first < DV + DK; first += 64u) {
    var x = mat4x4<f32>();
    for (var slice = 0u; slice < 4u; slice++) {
      workgroupBarrier();
      pool[SIDES + thread] = next;
      workgroupBarrier();
      if (slice < 3u) {
        next = right_side(start, head, 16u * (slice + 1u) + a, first + 4u * b);
      } else if (first + 64u < DV + DK) {
        next = right_side(start, head, a, first + 64u + 4u * b);
      }
      if (slice <= a / 4u) {
        let pitch = block_pitch(slice);
        let at = block_start(slice) + a - 4u * slice;
        for (var j = 0u; j < 16u; j += 2u) {
          let t = pool[at + j * pitch];
          let side = pool[SIDES + 16u * j + b];
          let t_next = pool[at + (j + 1u) * pitch];
          let side_next = pool[SIDES + 16u * j + 16u + b];
          x = mat4x4<f32>(
            x[0] + t * side.x + t_next * side_next.x, x[1] + t * side.y + t_next * side_next.y,
            x[2] + t * side.z + t_next * side_next.z, x[3] + t * side.w + t_next * side_next.w);
        }
      }
    }
    let c = first + 4u * b;
    if (c < DV) {
      let by_row = transpose(x);
      keep(start + 4u * a, head, c, by_row[0]);
      keep(start + 4u * a + 1u, head, c, by_row[1]);
      keep(start + 4u * a + 2u, head, c, by_row[2]);
      keep(start + 4u * a + 3u, head, c, by_row[3]);
    } else if (c < DV + DK) {
      let at = channel_place(start, head, c - DV) + a;
      scratch[at] = x[0];
      scratch[at + 32u] = x[1];
      scratch[at + PITCH / 4u] = x[2];
      scratch[at + PITCH / 4u + 32u] = x[3];
    }
  }
}
