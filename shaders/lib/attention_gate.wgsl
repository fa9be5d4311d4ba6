// attention_gate.wgsl: the output gate of Qwen3.5's attention, v * sigmoid(g), on a quad of a head.
//
// The kernel supplies: override D, and `gates`: the pass's projections [T, GATE, D], head h's gate at place 2 h + 1.

override GATE: u32 = 0u;  // heads a row: 2 H + 2 Hkv. 0: no gate

fn gated(v: vec4<f32>, row: u32, head: u32, quad: u32) -> vec4<f32> {
  if (GATE == 0u) { return v; }
  let g = gates[(row * GATE + 2u * head + 1u) * (D / 4u) + quad];
  return v / (1.0 + exp(min(-g, vec4<f32>(80.0))));
}
