// attention_causal.wgsl: the keys that a row of a chunk sees in the cache: its own and those before it, in a window.
//
// The kernel supplies: `step`; row t stands at position step.pos + t.

override WINDOW: u32 = 0u;  // key j is visible to query i when i - WINDOW < j <= i; 0: all j <= i

// First key that a row sees, and the one behind the last.
fn seen_by(row: u32) -> vec2<u32> {
  let end = step.pos + row + 1u;
  if (WINDOW == 0u) { return vec2<u32>(0u, end); }
  return vec2<u32>(end - min(end, WINDOW), end);
}

// Of rows first .. end - 1: x, y: the keys that any of them sees; z, w: those that all see.
fn seen_by_rows(first: u32, end: u32) -> vec4<u32> {
  let early = seen_by(first);
  let late = seen_by(end - 1u);
  return vec4<u32>(early.x, late.y, late.x, early.y);
}
