// sample_step.wgsl: hands the sampled token to the next pass. The kernel supplies the variables step (read_write), ids,
// counts and sampling. Libraries before it: step, sampling.

const HALT_STOP = 1u;
const HALT_LENGTH = 2u;

// Called by one thread. Nothing changes once the loop has halted.
fn advance(token: u32) {
  if (step.halt != 0u) {
    return;
  }
  let count = step.count + 1u;
  var halt = 0u;
  if (count >= step.limit) { halt = HALT_LENGTH; }
  for (var i = 0u; i < min(sampling.stop_count, 16u); i++) {
    if (sampling.stop_ids[i] == token) { halt = HALT_STOP; }
  }
  counts[token] += 1u;
  ids[0] = token;
  step.token = token;
  step.count = count;
  step.pos += step.rows;
  step.rows = 1u;
  step.halt = halt;
}
