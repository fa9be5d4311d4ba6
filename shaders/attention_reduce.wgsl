// attention_reduce.wgsl: merges the partial results of attention_decode.wgsl.
//   y = sum_s exp(m_s - m) partial_s / sum_s exp(m_s - m) l_s, m = max m_s. Reference: tests/ops/test_attention.py
//
//   binding  name     type       shape                    access
//   0        partial  vec4<f32>  [H, splits, D / 4 + 1]   read   partial_s; last (l, m, -, -). The binding's length gives `splits`
//   1        step     Step       -                        read
//   2        y        vec4<f32>  [H, D / 4]               write
//   3        gates    vec4<f32>  lib/attention_gate       read   dummy without GATE
//
// Dispatch (ceil(D / 4 / COLUMNS), H, 1): a workgroup merges only a few quads of a head, so that many workgroups read
// at once. A thread reads (l, m) of one split: there are at most 128.
// Libraries before it: step, attention_span, attention_gate.

override D: u32;
override H: u32;
override COLUMNS: u32;  // quads of a workgroup, a power of two up to 64

const WG = 128u;

@group(0) @binding(0) var<storage, read> partial: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> step: Step;
@group(0) @binding(2) var<storage, read_write> y: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> gates: array<vec4<f32>>;

var<workgroup> stats: array<vec2<f32>, WG>;  // (l_s, m_s), neutral behind the last part
var<workgroup> sums: array<f32, WG>;  // parts of the sum of exp(m_s - m) l_s, the same in all columns
var<workgroup> parts: array<vec4<f32>, WG>;  // [slices, COLUMNS]

// Over n parts, eight at a time, since each read of workgroup memory that is used at once is waited for alone.
fn highest(n: u32) -> f32 {
  var top = stats[0].y;
  for (var i = 0u; i < n; i += 8u) {
    let a = max(max(stats[i].y, stats[i + 1u].y), max(stats[i + 2u].y, stats[i + 3u].y));
    let b = max(max(stats[i + 4u].y, stats[i + 5u].y), max(stats[i + 6u].y, stats[i + 7u].y));
    top = max(top, max(a, b));
  }
  return top;
}

struct Merged { sum: f32, acc: vec4<f32> }

// And part s of n, of which v was read.
fn with_part(merged: Merged, s: u32, n: u32, v: vec4<f32>, maximum: f32) -> Merged {
  if (s >= n) { return merged; }
  let factor = exp(max(stats[s].y - maximum, -80.0));
  return Merged(merged.sum + factor * stats[s].x, merged.acc + factor * v);
}

@compute @workgroup_size(128)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let quads = D / 4u;
  let head = group.y;
  let most = arrayLength(&partial) / (H * (quads + 1u));
  let begin = head * most * (quads + 1u);
  let column = lane % COLUMNS;
  let quad = min(group.x * COLUMNS + column, quads - 1u);  // behind the last one it stands in; it is not written
  let slices = WG / COLUMNS;
  let slice = lane / COLUMNS;

  // A thread's first parts are on their way while it is found out how many count, and their maximum.
  let s0 = slice;
  let s1 = slice + slices;
  let s2 = slice + 2u * slices;
  let s3 = slice + 3u * slices;
  let v0 = partial[begin + min(s0, most - 1u) * (quads + 1u) + quad];
  let v1 = partial[begin + min(s1, most - 1u) * (quads + 1u) + quad];
  let v2 = partial[begin + min(s2, most - 1u) * (quads + 1u) + quad];
  let v3 = partial[begin + min(s3, most - 1u) * (quads + 1u) + quad];
  var own = partial[begin + min(lane, most - 1u) * (quads + 1u) + quads].xy;
  let n = attention_span(step.pos, most).splits;
  if (lane >= n) { own = vec2<f32>(0.0, -1e30); }
  stats[lane] = own;
  workgroupBarrier();
  let maximum = highest(n);

  var merged = Merged(0.0, vec4<f32>(0.0));
  merged = with_part(merged, s0, n, v0, maximum);
  merged = with_part(merged, s1, n, v1, maximum);
  merged = with_part(merged, s2, n, v2, maximum);
  merged = with_part(merged, s3, n, v3, maximum);
  for (var s = slice + 4u * slices; s < n; s += 4u * slices) {
    let i1 = s + slices;
    let i2 = s + 2u * slices;
    let i3 = s + 3u * slices;
    let p0 = partial[begin + s * (quads + 1u) + quad];
    let p1 = partial[begin + min(i1, n - 1u) * (quads + 1u) + quad];
    let p2 = partial[begin + min(i2, n - 1u) * (quads + 1u) + quad];
    let p3 = partial[begin + min(i3, n - 1u) * (quads + 1u) + quad];
    merged = with_part(merged, s, n, p0, maximum);
    merged = with_part(merged, i1, n, p1, maximum);
    merged = with_part(merged, i2, n, p2, maximum);
    merged = with_part(merged, i3, n, p3, maximum);
  }
  sums[lane] = merged.sum;
  parts[lane] = merged.acc;
  workgroupBarrier();
  if (lane < COLUMNS && group.x * COLUMNS + lane < quads) {
    var total = 0.0;
    var result = vec4<f32>(0.0);
    for (var i = 0u; i < slices; i++) {
      total += sums[i * COLUMNS + lane];
      result += parts[i * COLUMNS + lane];
    }
    y[head * quads + quad] = gated(result / total, 0u, head, quad);
  }
}
