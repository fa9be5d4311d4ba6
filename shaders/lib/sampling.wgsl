// sampling.wgsl: what the caller set (py_engine/ops/sample.py packs it), and an order of floats.

struct Sampling {
  inverse_temperature: f32,  // 1 when greedy
  top_k: u32,                // 0: off. 1 when greedy
  top_p: f32,                // 1: off
  distance: f32,             // min-p as a distance from the best logit, -ln(min_p), in nats; 1e30: off
  repetition: f32,           // 1: off
  presence: f32,             // 0: off
  frequency: f32,            // 0: off
  penalised: u32,            // whether any of the three is on
  seed: u32,
  stop_count: u32,
  reserved0: u32,
  reserved1: u32,
  stop_ids: array<u32, 16>,
}

// A token's history, a word each: bit 31 says that it stands in the prompt, the rest counts its uses in the answer.
const IN_PROMPT = 0x80000000u;

// Unsigned integers in the order of the floats; NaN, of either sign, stands below all. Tested on bits, since shader
// compilers may assume that there is no NaN.
fn order_key(v: f32) -> u32 {
  let bits = bitcast<u32>(v);
  if ((bits & 0x7fffffffu) > 0x7f800000u) { return 0u; }
  if ((bits & 0x80000000u) != 0u) { return ~bits; }
  return bits | 0x80000000u;
}

fn from_order_key(key: u32) -> f32 {
  if ((key & 0x80000000u) != 0u) { return bitcast<f32>(key & 0x7fffffffu); }
  return bitcast<f32>(~key);
}
