// sample_noise.wgsl: Gumbel noise, so that the argmax of logit + noise is a sample of the softmax (Gumbel-max trick;
// Maddison et al. 2014, arXiv:1411.0030). Libraries before it: hash, sampling, sample_best. The kernel supplies var sampling.

// Noise of a token: the same for the same seed, place in the answer and token, on every device but for rounding.
fn gumbel(key: u32, token: u32) -> f32 {
  let u = min((f32(pcg(pcg(token) ^ key)) + 0.5) * 2.3283064365386963e-10, 0.99999994);
  // e = -ln(1 - u), an exponential variate; the winner has a small one, where a GPU's ln(1 - u) may be off by 2^-21.
  var e = 0.0;
  if (u < 0.125) {
    e = u * (1.0 + u * (0.5 + u * (0.33333334 + u * (0.25 + u * (0.2 + u * (0.16666667 + u * (0.14285715 + u * 0.125)))))));
  } else {
    e = -log(1.0 - u);
  }
  return -log(e);
}

fn noise_key(seed: u32, count: u32) -> u32 { return pcg(seed ^ pcg(count + 0x9e3779b9u)); }

// (order_key, token) of a token d nats below the best one: the highest wins. NONE where min-p drops it.
fn score(noise: u32, token: u32, d: f32) -> vec2<u32> {
  if (d > sampling.distance) { return NONE; }
  return vec2<u32>(order_key(gumbel(noise, token) - d), token);
}
