// sample_buckets.wgsl: the histogram that top-k and top-p are read from. Token i lies d = best - logit nats below the best
// one, in bucket floor(64 d); 2048 buckets reach 32 nats. Tokens further below have probability 0 here; together they
// would have at most 2^19 e^-32 = 7e-9 of the best one's.

const BUCKETS = 2048u;
const BUCKETS_A_NAT = 64.0;
const REACH = 32.0;             // nats
const EXCESS_UNIT = 524288.0;   // 2^19: below. 2^18 tokens of at most 1 - e^(-1/64) each stay within 32 bits
const EXCESS_AT = BUCKETS;      // words of the histogram: counts, then excesses
const LIST = 1024u;             // tokens that can be ordered exactly

// Only for d < REACH.
fn bucket_of(d: f32) -> u32 { return min(u32(d * BUCKETS_A_NAT), BUCKETS - 1u); }

// How much the weight e^-d is below that of the bucket's upper edge, in units of 2^-19 of the latter. Sums of integers
// do not depend on the order of the atomics: the same seed gives the same token.
fn excess_of(d: f32, bucket: u32) -> u32 {
  let x = d - f32(bucket) / BUCKETS_A_NAT;  // exact; 0 <= x < 1/64, and 1 - e^-x by its series
  return u32(x * (1.0 - x * (0.5 - x * (0.16666667 - x * 0.041666668))) * EXCESS_UNIT + 0.5);
}

// Weight of a bucket's tokens, in units of the best token's.
fn bucket_weight(bucket: u32, count: u32, excess: u32) -> f32 {
  return exp(-f32(bucket) / BUCKETS_A_NAT) * (f32(count) - f32(excess) / EXCESS_UNIT);
}
