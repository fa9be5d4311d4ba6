// attention_span.wgsl: which keys one token's query sees, and how decode cuts them into splits. Known to the kernel that
// makes the partial results and to the one that merges them.

override WINDOW: u32 = 0u;  // key j is visible to query i when i - WINDOW < j <= i; 0: all j <= i

override TILE: u32;  // keys a workgroup takes at a time

struct Span {
  first: u32,   // the first visible key
  end: u32,     // behind the last one
  length: u32,  // keys a split, a multiple of TILE
  splits: u32,  // splits that have keys, at least 1
}

// For the query at `position` and `most` splits. Keys are spread over as many splits as they fill, so that a short text
// in a large context is not left to one workgroup.
fn attention_span(position: u32, most: u32) -> Span {
  let end = position + 1u;
  var first = 0u;
  if (WINDOW > 0u && end > WINDOW) { first = end - WINDOW; }
  let tiles = (end - first + TILE - 1u) / TILE;
  let length = (tiles + most - 1u) / most * TILE;
  return Span(first, end, length, (end - first + length - 1u) / length);
}
