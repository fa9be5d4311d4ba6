// nearest_best.wgsl: the best BEST of every 1024 candidates, best first; of equal keys the lower index, which is older, is better.
//   Batcher's bitonic sorter (1968, "Sorting networks and their applications"). Run again over its own output until one
//   workgroup is left. Reference: tests/ops/test_nearest.py
//
//   binding  name    type        shape             access
//   0        source  u32         [N] or [N, 2]     read    keys, each its place's; or with PAIRS (key, index) each
//   1        best    vec2<u32>   [groups, BEST]    write   (key, index); NONE where there are fewer candidates
//
// Dispatch (ceil(N / 1024), 1, 1). The binding of source ends with the candidates.

override BEST: u32;           // at most 1024
override PAIRS: bool = false;

@group(0) @binding(0) var<storage, read> source: array<u32>;
@group(0) @binding(1) var<storage, read_write> best: array<vec2<u32>>;

const N = 1024u;
const WG = 256u;
const NONE = vec2<u32>(0u, 0xffffffffu);

var<workgroup> sorted: array<vec2<u32>, 1024>;

fn candidate(at: u32) -> vec2<u32> {
  if (PAIRS) {
    if (at >= arrayLength(&source) / 2u) { return NONE; }
    return vec2<u32>(source[2u * at], source[2u * at + 1u]);
  }
  if (at >= arrayLength(&source)) { return NONE; }
  return vec2<u32>(source[at], at);
}

// Whether a stands before b.
fn before(a: vec2<u32>, b: vec2<u32>) -> bool { return a.x > b.x || (a.x == b.x && a.y < b.y); }

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  for (var i = lane; i < N; i += WG) { sorted[i] = candidate(group.x * N + i); }
  workgroupBarrier();
  for (var run = 2u; run <= N; run *= 2u) {          // runs of this length become sorted, every other one backwards
    for (var span = run / 2u; span > 0u; span /= 2u) {
      for (var i = lane; i < N / 2u; i += WG) {
        let a = 2u * span * (i / span) + i % span;
        let b = a + span;
        let x = sorted[a];
        let y = sorted[b];
        let forwards = (a & run) == 0u;
        if (before(y, x) == forwards) {
          sorted[a] = y;
          sorted[b] = x;
        }
      }
      workgroupBarrier();
    }
  }
  for (var i = lane; i < BEST; i += WG) { best[group.x * BEST + i] = sorted[i]; }
}
