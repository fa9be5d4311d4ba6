// rope_angles.wgsl: (cos, sin) of every row's rotary angles where positions have several axes (time, height, width), for
// kernels with PER_ROW (lib/rotary.wgsl). Pair i of a head turns by its frequency times the position on its axis.
//   M-RoPE: Wang et al. 2024, arXiv:2409.12191; the tables: lib/rotary.wgsl. Reference: tests/ops/test_rope_angles.py
//
//   binding  name       type       shape            access
//   0        positions  u32        [>= T, AXES]     read
//   1        axes       u32        [R/2]            read    which axis a pair follows
//   2        table      vec2<f32>  [A + 64, R/2]    read    the binding ends where the table ends
//   3        step       Step       -                read
//   4        angles     vec2<f32>  [T, R/2]         write
//
// Dispatch (ceil(R/2 / 64), T, 1): a thread a pair; rows from step.rows on do nothing. Library before it: step.

override AXES: u32;
override PAIRS: u32;  // R / 2

@group(0) @binding(0) var<storage, read> positions: array<u32>;
@group(0) @binding(1) var<storage, read> axes: array<u32>;
@group(0) @binding(2) var<storage, read> table: array<vec2<f32>>;
@group(0) @binding(3) var<storage, read> step: Step;
@group(0) @binding(4) var<storage, read_write> angles: array<vec2<f32>>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
  let pair = id.x;
  if (pair >= PAIRS || id.y >= step.rows) {
    return;
  }
  let position = positions[id.y * AXES + min(axes[pair], AXES - 1u)];
  let coarse = arrayLength(&table) / PAIRS - 64u;
  let c = table[min(position / 64u, coarse - 1u) * PAIRS + pair];
  let f = table[(coarse + position % 64u) * PAIRS + pair];
  angles[id.y * PAIRS + pair] = vec2<f32>(c.x * f.x - c.y * f.y, c.y * f.x + c.x * f.y);
}
