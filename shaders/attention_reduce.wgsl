// attention_reduce.wgsl: merges the partial results of attention_decode.wgsl.
//   y = sum_s exp(m_s - m) partial_s / sum_s exp(m_s - m) l_s, m = max m_s. Reference: tests/ops/test_attention.py
//
//   binding  name     type       shape                    access
//   0        partial  vec4<f32>  [H, splits, D / 4 + 1]   read   partial_s; last (l, m, -, -). The binding's length gives `splits`
//   1        step     Step       -                        read
//   2        y        vec4<f32>  [H, D / 4]               write
//   3        gates    vec4<f32>  lib/attention_gate       read   dummy without GATE
//
// Dispatch (H, 1, 1): a workgroup a head. Libraries before it: step, attention_span, attention_gate.

override D: u32;
override H: u32;

const WG = 128u;
const MAX_SPLITS = 128u;

@group(0) @binding(0) var<storage, read> partial: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> step: Step;
@group(0) @binding(2) var<storage, read_write> y: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> gates: array<vec4<f32>>;

var<workgroup> maxima: array<f32, MAX_SPLITS>;
var<workgroup> factors: array<f32, MAX_SPLITS>;  // exp(m_s - m)
var<workgroup> sums: array<f32, MAX_SPLITS>;     // exp(m_s - m) l_s
var<workgroup> slices_acc: array<vec4<f32>, WG>;

@compute @workgroup_size(128)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let quads = D / 4u;
  let most = arrayLength(&partial) / (H * (quads + 1u));
  let n = attention_span(step.pos, most).splits;
  let row = group.x * most;
  var mine = vec2<f32>(0.0, -1e30);
  if (lane < n) { mine = partial[(row + lane) * (quads + 1u) + quads].xy; }
  maxima[lane] = mine.y;
  workgroupBarrier();
  var highest = -1e30;
  for (var i = 0u; i < n; i++) { highest = max(highest, maxima[i]); }
  let factor = exp(max(mine.y - highest, -80.0));
  factors[lane] = factor;
  sums[lane] = factor * mine.x;
  workgroupBarrier();

  let slices = WG / quads;
  let slice = lane / quads;
  var acc = vec4<f32>(0.0);
  if (slice < slices) {
    // Four loads at a time, since each that is used at once is waited for alone; behind the end the last one, times 0.
    for (var i = slice; i < n; i += 4u * slices) {
      let i1 = min(i + slices, n - 1u);
      let i2 = min(i + 2u * slices, n - 1u);
      let i3 = min(i + 3u * slices, n - 1u);
      let v0 = partial[(row + i) * (quads + 1u) + lane % quads];
      let v1 = partial[(row + i1) * (quads + 1u) + lane % quads];
      let v2 = partial[(row + i2) * (quads + 1u) + lane % quads];
      let v3 = partial[(row + i3) * (quads + 1u) + lane % quads];
      acc += factors[i] * v0 + factors[i1] * f32(i + slices < n) * v1
        + factors[i2] * f32(i + 2u * slices < n) * v2 + factors[i3] * f32(i + 3u * slices < n) * v3;
    }
  }
  slices_acc[lane] = acc;
  workgroupBarrier();
  if (lane < quads) {
    var total = 0.0;
    for (var i = 0u; i < n; i++) { total += sums[i]; }
    var v = vec4<f32>(0.0);
    for (var i = 0u; i < slices; i++) { v += slices_acc[i * quads + lane]; }
    y[group.x * quads + lane] = gated(v / total, 0u, group.x, lane);
  }
}
