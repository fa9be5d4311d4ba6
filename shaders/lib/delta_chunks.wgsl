// delta_chunks.wgsl: which rows of a pass are whole chunks of 64 for a gated DeltaNet. Chunks begin at positions that are
// multiples of 64, however a prompt is cut into passes. Rows before the first and behind the last whole chunk go one after
// the other, and so do all rows of heads wider than 128.
//
// The kernel supplies: overrides DK, DV. Library before it: step.

const CHUNK = 64u;

// The row at which the first chunk begins, if there is one.
fn first_chunk() -> u32 { return (CHUNK - step.pos % CHUNK) % CHUNK; }

// How many whole chunks the pass has.
fn whole_chunks() -> u32 {
  if (max(DK, DV) > 128u) { return 0u; }
  return (step.rows - min(step.rows, first_chunk())) / CHUNK;
}

// The factor that decay leaves, from its logarithm.
fn decayed(log: f32) -> f32 { return exp(clamp(log, -80.0, 0.0)); }
