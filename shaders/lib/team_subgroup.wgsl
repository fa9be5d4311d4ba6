// team_subgroup.wgsl: sums over the threads of a team by subgroup shuffles, without a barrier. A team lies in one subgroup:
// the threads of a one-dimensional workgroup fill subgroups in the order of their index, on every GPU known to us.
// Interface: team_workgroup.wgsl, beside override G. Feature: subgroups.

struct TwoScores { i: Scores, j: Scores }

fn pair_sum(value: vec2<f32>) -> vec2<f32> {
  var v = value;
  v += subgroupShuffleXor(v, 1u);
  v += subgroupShuffleXor(v, 2u);
  if (LANES > 4u) { v += subgroupShuffleXor(v, 4u); }
  if (LANES > 8u) { v += subgroupShuffleXor(v, 8u); }
  if (LANES > 16u) { v += subgroupShuffleXor(v, 16u); }
  return v;
}

fn team_sum(v: vec4<f32>) -> vec4<f32> {
  if (G > 2u) { return vec4<f32>(pair_sum(v.xy), pair_sum(v.zw)); }
  return vec4<f32>(pair_sum(v.xy), 0.0, 0.0);
}

fn team_sums(i: Scores, j: Scores, lane: u32, turn: u32) -> TwoScores {
  if (QUADS == 4u) { return TwoScores(Scores(team_sum(i.lo), i.hi), Scores(team_sum(j.lo), j.hi)); }
  return TwoScores(Scores(team_sum(i.lo), team_sum(i.hi)), Scores(team_sum(j.lo), team_sum(j.hi)));
}
