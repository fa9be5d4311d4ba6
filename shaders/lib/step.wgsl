// step.wgsl: the small buffer that lets the GPU run the token loop by itself.
//
// The host writes it before a prefill chunk (pos, rows, ...); in decode only the sampling kernels write it. The first
// four words are what is read back after each token. Layout known to py_engine/ops/step.py.

struct Step {
  token: u32,  // the last token that was sampled
  halt: u32,   // 0: running. 1: a stop token came. 2: the token limit was reached. Lasting state must not change then.
  pos: u32,    // rows in the KV cache before this pass = position of this pass's first row
  count: u32,  // tokens sampled since the host started this run
  rows: u32,   // valid rows of this pass: 1 in decode, up to the plan's rows in prefill
  limit: u32,  // sample at most this many tokens
  shift: u32,  // rotary position minus row in the KV cache, modulo 2^32: not 0 behind images, whose rows share positions
  reserved: u32,
}
