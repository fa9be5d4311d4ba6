// sampling.wgsl: what the caller set (py_engine/ops/sample.py packs it), the penalties, and an order of floats.

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

// The logit after the penalties. Repetition: Keskar et al. 2019, arXiv:1909.05858, prompt and answer, as transformers
// has it. Presence and frequency: answer only, as OpenAI's API has them.
fn penalise(logit: f32, history: u32, s: Sampling) -> f32 {
  var l = logit;
  if (history != 0u) {
    if (l > 0.0) {
      l = l / s.repetition;
    } else {
      l = l * s.repetition;
    }
  }
  let uses = history & ~IN_PROMPT;
  if (uses > 0u) {
    l = l - s.presence - s.frequency * f32(uses);
  }
  return l;
}

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

// The better of two (order_key, token): the higher key, on a tie the lower token.
fn better(a: vec2<u32>, b: vec2<u32>) -> vec2<u32> {
  if (b.x > a.x || (b.x == a.x && b.y < a.y)) { return b; }
  return a;
}
