// attention_spans.wgsl: the keys that a row sees without a causal mask: those of its span, in a window to both sides.
//
// The kernel supplies: `spans` [T]; row t sees keys spans[t].x .. spans[t].y - 1, perhaps none.

override WINDOWED: bool = false;  // keys are the rows themselves: row t sees t - BEFORE .. t + AFTER of its span
override BEFORE: u32 = 0u;
override AFTER: u32 = 0u;

// First key that a row sees, and the one behind the last.
fn seen_by(row: u32) -> vec2<u32> {
  var span = spans[row];
  if (WINDOWED) {
    span.x = max(span.x, row - min(row, BEFORE));
    span.y = min(span.y, row + AFTER + 1u);
  }
  return span;
}

// Of rows first .. end - 1: x, y: the keys that any of them sees, and between; z, w: those that all see, if z < w.
fn seen_by_rows(first: u32, end: u32) -> vec4<u32> {
  var reach = vec4<u32>(0xffffffffu, 0u, 0u, 0xffffffffu);
  for (var row = first; row < end; row++) {
    let span = seen_by(row);
    if (span.x < span.y) {
      reach.x = min(reach.x, span.x);
      reach.y = max(reach.y, span.y);
      reach.z = max(reach.z, span.x);
      reach.w = min(reach.w, span.y);
    } else {
      reach.w = 0u;
    }
  }
  return reach;
}
