// sample_blocks.wgsl: the vocabulary in runs of 2048 tokens (a workgroup's) and blocks of 128 (16 lanes' of a workgroup:
// 8 stretches of 16 tokens, 256 apart), and the penalised logits as keys.
//
// The kernel supplies: vars logits: array<f32> [V], counts: array<u32> [V], sampling. Library before it: sampling. The
// binding of the logits ends with them: their number is read, so that all models share these kernels.

fn vocabulary() -> u32 { return arrayLength(&logits); }

const A_LANE = 8u;         // tokens of a lane, STRIDE apart
const STRIDE = 256u;
const BLOCK_LANES = 16u;
const RUN_BLOCKS = 16u;

// The first token of a lane's eight in a block.
fn first_token(block: u32, lane: u32) -> u32 {
  return block / RUN_BLOCKS * 2048u + block % RUN_BLOCKS * BLOCK_LANES + lane % BLOCK_LANES;
}

// The logit after the penalties. Repetition: Keskar et al. 2019, arXiv:1909.05858, prompt and answer, as transformers
// has it. Presence and frequency: answer only, as OpenAI's API has them.
fn penalise(logit: f32, history: u32) -> f32 {
  var l = logit;
  if (history != 0u) {
    if (l > 0.0) {
      l = l / sampling.repetition;
    } else {
      l = l * sampling.repetition;
    }
  }
  let uses = history & ~IN_PROMPT;
  if (uses > 0u) {
    l = l - sampling.presence - sampling.frequency * f32(uses);
  }
  return l;
}

// order_key of a lane's eight tokens after the penalties; 0 for NaN and beyond the vocabulary. Loads come first and
// under no condition, so that all are on their way at once.
fn keys_from(first: u32) -> array<u32, A_LANE> {
  var values: array<u32, A_LANE>;  // bits of logits, then keys
  var history: array<u32, A_LANE>;
  for (var i = 0u; i < A_LANE; i++) { values[i] = bitcast<u32>(logits[min(first + i * STRIDE, vocabulary() - 1u)]); }
  if (sampling.penalised != 0u) {
    for (var i = 0u; i < A_LANE; i++) { history[i] = counts[min(first + i * STRIDE, vocabulary() - 1u)]; }
  }
  for (var i = 0u; i < A_LANE; i++) {
    var key = 0u;
    if (first + i * STRIDE < vocabulary()) { key = order_key(penalise(bitcast<f32>(values[i]), history[i])); }
    values[i] = key;
  }
  return values;
}

fn key_of(token: u32) -> u32 {
  var l = logits[token];
  if (sampling.penalised != 0u) { l = penalise(l, counts[token]); }
  return order_key(l);
}

// Nats, after temperature, that a key lies below the best one. Infinities count as +-1e30.
fn below(top: u32, key: u32) -> f32 {
  return (finite(top) - finite(key)) * sampling.inverse_temperature;
}

fn finite(key: u32) -> f32 {
  if (key == 0u) { return -1e30; }
  return clamp(from_order_key(key), -1e30, 1e30);
}
