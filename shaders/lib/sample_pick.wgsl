// sample_pick.wgsl: finds tokens by how good they are: those of some buckets, the n-th best of them, a sorted list, and the
// winner among them.
//
// "Better" is an order of all tokens without ties: a higher key, on equal keys a lower token. A Range holds the tokens of
// buckets [first, last) that are not worse than `cut`.
// The kernel supplies: vars best, scores: array<vec2<u32>>, logits, counts, sampling. Libraries before it: sampling,
// sample_best, sample_blocks, sample_top, sample_buckets, hash, sample_noise. All functions with a lane: call
// them where all 256 lanes do.

struct Range {
  top: u32,  // key of the best token
  first: u32,
  last: u32,
  cut: vec2<u32>,  // (key, token)
}

const NO_CUT = NONE;
const LISTING = 7u;    // beyond the digits of (key, token)
const WINNING = 8u;
const WINDOW = 1024u;  // blocks looked at together

// The list: (~key, token) in words 2 i, 2 i + 1, ascending is from the best down. Also counters, before there is a list.
var<workgroup> words: array<atomic<u32>, 2u * LIST>;
var<workgroup> chosen: array<u32, WINDOW>;  // blocks
var<workgroup> taken: atomic<u32>;
var<workgroup> taken_before: u32;
var<workgroup> found: vec2<u32>;
var<private> nth: vec2<u32>;     // (key, token) that pick found
var<private> leader: vec2<u32>;  // the best (score, token) that the lane knows; the same in all lanes before WINNING

// How often `taken` was added to, for all lanes; it is 0 again.
fn taken_count(lane: u32) -> u32 {
  workgroupBarrier();
  if (lane == 0u) { taken_before = atomicExchange(&taken, 0u); }
  return workgroupUniformLoad(&taken_before);
}

fn not_worse(key: u32, token: u32, cut: vec2<u32>) -> bool {
  return key > cut.x || (key == cut.x && token <= cut.y);
}

fn in_range(key: u32, token: u32, r: Range) -> bool {
  if (key == 0u || !not_worse(key, token, r.cut)) { return false; }
  let d = below(r.top, key);
  if (!(d < REACH)) { return false; }
  let bucket = bucket_of(d);
  return bucket >= r.first && bucket < r.last;
}

// Puts the window's blocks that may have tokens of the range into `chosen`; to look for the winner, only those whose own
// winner is better than the leader.
fn choose_blocks(lane: u32, window: u32, r: Range, winning: bool) -> u32 {
  for (var at = window + lane; at < min(window + WINDOW, block_count()); at += 256u) {
    let key = best[at].x;
    let d = below(r.top, key);
    var wanted = r.first < r.last && key != 0u && d < REACH && bucket_of(d) < r.last;
    if (winning && wanted) { wanted = any(better(leader, scores[at]) != leader); }
    if (wanted) {
      chosen[atomicAdd(&taken, 1u)] = at;
    }
  }
  return taken_count(lane);
}

// Sums over lanes 0 to `lane` of (count, bits of f32 weight).
fn running_sums(lane: u32, mine: vec2<u32>) -> vec2<u32> {
  var sum = mine;
  for (var span = 1u; span <= 256u; span *= 2u) {
    lanes[lane] = sum;
    workgroupBarrier();
    if (span < 256u) {
      var other = vec2<u32>(0u);
      if (lane >= span) { other = lanes[lane - span]; }
      sum = vec2<u32>(sum.x + other.x, bitcast<u32>(bitcast<f32>(sum.y) + bitcast<f32>(other.y)));
      workgroupBarrier();
    }
  }
  return sum;
}

// A digit of 8 bits of (key, ~token): 0 to 3 of the key, 4 to 6 of the token.
fn digit_of(bits: vec2<u32>, digit: u32) -> u32 {
  if (digit < 4u) { return (bits.x >> (24u - 8u * digit)) & 255u; }
  return (bits.y >> (48u - 8u * digit)) & 255u;
}

fn with_digit(value: u32, digit: u32) -> vec2<u32> {
  if (digit < 4u) { return vec2<u32>(value << (24u - 8u * digit), 0u); }
  return vec2<u32>(0u, value << (48u - 8u * digit));
}

// Of the range's tokens with the known bits, either lists those (digit LISTING; the list holds the first LIST to come) and
// returns how many there are; or counts them in `words` by a digit, 255 first, and returns 0; or makes the best of them the
// lane's leader, if it is better than the one before (digit WINNING).
fn visit(lane: u32, r: Range, digit: u32, known: vec2<u32>, mask: vec2<u32>, noise: u32) -> u32 {
  var n = 0u;
  var mine = leader;
  for (var window = 0u; window < block_count(); window += WINDOW) {
    let blocks = choose_blocks(lane, window, r, digit == WINNING);
    for (var at = lane / BLOCK_LANES; at < blocks; at += 256u / BLOCK_LANES) {
      let first = first_token(chosen[at], lane);
      let keys = keys_from(first);
      for (var i = 0u; i < A_LANE; i++) {
        let token = first + i * STRIDE;
        let bits = vec2<u32>(keys[i], ~token);
        if (all((bits & mask) == known) && in_range(keys[i], token, r)) {
          if (digit < LISTING) {
            atomicAdd(&words[255u - digit_of(bits, digit)], 1u);
          } else if (digit == WINNING) {
            mine = better(mine, score(noise, token, below(r.top, keys[i])));
          } else {
            let place = n + atomicAdd(&taken, 1u);
            if (place < LIST) {
              atomicStore(&words[2u * place], ~keys[i]);
              atomicStore(&words[2u * place + 1u], token);
            }
          }
        }
      }
    }
    n += taken_count(lane);
  }
  leader = mine;
  return n;
}

// Lists the range's tokens in any order. If they are more than LIST, finds which is the n-th best of them, digit by digit,
// each time counting the tokens that agree so far; and lists that one and the better ones if `relist`. Returns how many
// tokens there are to list, and `nth` or else NO_CUT. (In one struct, Tint would take both for different in each lane.)
// Or, where `task` is WINNING and not LISTING, only looks for the leader.
fn pick(lane: u32, task: u32, all_of: Range, n: u32, relist: bool, noise: u32) -> u32 {
  var r = all_of;
  var listed = 0u;
  var left = n;
  var known = vec2<u32>(0u);
  var mask = vec2<u32>(0u);
  var digit = task;
  for (var turn = 0u; turn < LISTING + 2u; turn++) {
    if (digit < LISTING) { atomicStore(&words[lane], 0u); }
    workgroupBarrier();
    let visited = visit(lane, r, digit, known, mask, noise);
    if (digit == WINNING) { break; }
    if (digit == LISTING) {
      listed = visited;
      if (listed <= LIST || turn > 0u) { break; }
      digit = 0u;
      continue;
    }
    let here = atomicLoad(&words[lane]);
    let through = running_sums(lane, vec2<u32>(here, 0u)).x;
    if (through >= left && through - here < left) { found = vec2<u32>(255u - lane, through - here); }
    workgroupBarrier();
    left -= found.y;
    known |= with_digit(found.x, digit);
    mask |= with_digit(255u, digit);
    workgroupBarrier();
    digit++;
    if (digit == LISTING) {
      r.cut = vec2<u32>(known.x, ~known.y & 0xffffffu);
      known = vec2<u32>(0u);
      mask = vec2<u32>(0u);
      if (!relist) { break; }
    }
  }
  nth = r.cut;
  return listed;
}

fn entry(i: u32) -> vec2<u32> { return vec2<u32>(atomicLoad(&words[2u * i]), atomicLoad(&words[2u * i + 1u])); }

// Puts the list's n entries in order: bitonic sort (Batcher 1968). n is the same in all lanes, at most LIST.
fn sort_list(lane: u32, n: u32) {
  var size = 1u;
  while (size < n) { size *= 2u; }
  for (var i = n + lane; i < size; i += 256u) {
    atomicStore(&words[2u * i], 0xffffffffu);
    atomicStore(&words[2u * i + 1u], 0xffffffffu);
  }
  workgroupBarrier();
  for (var run = 2u; run <= size; run *= 2u) {
    for (var span = run / 2u; span > 0u; span /= 2u) {
      for (var pair = lane; pair < size / 2u; pair += 256u) {
        let i = pair / span * 2u * span + pair % span;
        let a = entry(i);
        let b = entry(i + span);
        let a_first = a.x < b.x || (a.x == b.x && a.y < b.y);
        if (a_first != ((i & run) == 0u)) {
          atomicStore(&words[2u * i], b.x);
          atomicStore(&words[2u * i + 1u], b.y);
          atomicStore(&words[2u * (i + span)], a.x);
          atomicStore(&words[2u * (i + span) + 1u], a.y);
        }
      }
      workgroupBarrier();
    }
  }
}
