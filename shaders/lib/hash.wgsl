// hash.wgsl: PCG's output function as a hash of 32 bits (Jarzynski & Olano 2020, "Hash Functions for GPU Rendering").
// Integers only, so every device gives the same.

fn pcg(v: u32) -> u32 {
  let state = v * 747796405u + 2891336453u;
  let word = ((state >> ((state >> 28u) + 4u)) ^ state) * 277803737u;
  return (word >> 22u) ^ word;
}
