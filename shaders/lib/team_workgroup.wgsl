// team_workgroup.wgsl: sums over the threads of a team through workgroup memory; a barrier, or two with QUADS = 2.
//
// The kernel supplies: overrides LANES, QUADS, const WG, struct Scores { lo, hi }, and new_rows: array<vec4<f32>, ..> in workgroup
// memory, of whose first 4 WG entries it makes no use meanwhile. Teams are LANES neighbouring threads, LANES a power of two, at least 4.

struct TwoScores { i: Scores, j: Scores }

fn team_sum(base: u32) -> vec4<f32> {
  var sum = vec4<f32>(0.0);
  for (var n = 0u; n < LANES; n += 4u) {
    sum += (new_rows[base + n] + new_rows[base + n + 1u]) + (new_rows[base + n + 2u] + new_rows[base + n + 3u]);
  }
  return sum;
}

// Sums of two keys' scores over the caller's team; `hi` only with QUADS = 2. Called by all threads in uniform control flow,
// with `turn` 0 and 1 by turns.
fn team_sums(i: Scores, j: Scores, lane: u32, turn: u32) -> TwoScores {
  let base = lane - lane % LANES;
  if (QUADS == 4u) {
    let half = turn * 2u * WG;
    new_rows[half + lane] = i.lo;
    new_rows[half + WG + lane] = j.lo;
    workgroupBarrier();
    return TwoScores(Scores(team_sum(half + base), i.hi), Scores(team_sum(half + WG + base), j.hi));
  }
  new_rows[lane] = i.lo;
  new_rows[WG + lane] = j.lo;
  new_rows[2u * WG + lane] = i.hi;
  new_rows[3u * WG + lane] = j.hi;
  workgroupBarrier();
  let sums = TwoScores(
    Scores(team_sum(base), team_sum(2u * WG + base)), Scores(team_sum(WG + base), team_sum(3u * WG + base)));
  workgroupBarrier();
  return sums;
}
