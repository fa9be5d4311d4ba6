// kv_append_q8.wgsl: appends to a KV cache of affine bytes. What f16 cannot hold becomes its largest value.
// Interface: kv_append_f32.wgsl. Before it: kv_q8.

// A few elements of keys are far larger than the others in some models, and would take all steps of their group. So blocks of
// up to 64 elements are multiplied by a Hadamard matrix, over the square root of its size: Ashkboos et al. 2024,
// arXiv:2404.00456. A block is as long as the power of two that divides D.
const KV_SPREADS = true;

fn kv_spread(start: u32, quad: u32) -> vec4<f32> {
  let quads = D / 4u;
  let block = min(quads & (~quads + 1u), KV_GROUP);
  let first = start + quad / block * block;
  let row = quad % block;
  var sum = vec4<f32>(0.0);
  for (var i = 0u; i < block; i++) {
    if (countOneBits(row & i) % 2u == 0u) {
      sum += new_rows[first + i];
    } else {
      sum -= new_rows[first + i];
    }
  }
  let a = sum.x + sum.y;
  let b = sum.x - sum.y;
  let c = sum.z + sum.w;
  let d = sum.z - sum.w;
  return vec4<f32>(a + c, b + d, a - c, b - d) / sqrt(f32(4u * block));
}

// The least and the greatest value of the group of a quad of a new row, as a pair of f16.
fn kv_ends(start: u32, quad: u32) -> u32 {
  let first = quad / KV_GROUP * KV_GROUP;
  var least = new_rows[start + first];
  var greatest = least;
  for (var i = first + 1u; i < min(first + KV_GROUP, D / 4u); i++) {
    least = min(least, new_rows[start + i]);
    greatest = max(greatest, new_rows[start + i]);
  }
  let ends = vec2<f32>(
    min(min(least.x, least.y), min(least.z, least.w)),
    max(max(greatest.x, greatest.y), max(greatest.z, greatest.w)));
  return pack2x16float(clamp(ends, vec2<f32>(-65504.0), vec2<f32>(65504.0)));
}

fn kv_new(start: u32, quad: u32) -> KvQuad {
  let packed = kv_ends(start, quad);
  let ends = unpack2x16float(packed);
  // A group of equal values: whatever the bytes are, they mean the least.
  let width = max(ends.y - ends.x, 1e-20);
  let parts = clamp((new_rows[start + quad] - ends.x) / width, vec4<f32>(0.0), vec4<f32>(1.0));
  return vec2<u32>(pack4x8unorm(parts), packed);
}

fn k_put(row: u32, start: u32, quad: u32) {
  let stored = kv_new(start, quad);
  let at = row * kv_words();
  k_cache[at + quad] = stored.x;
  if (quad % KV_GROUP == 0u) { k_cache[at + D / 4u + quad / KV_GROUP] = stored.y; }
}

fn v_put(row: u32, start: u32, quad: u32) {
  let stored = kv_new(start, quad);
  let at = row * kv_words();
  v_cache[at + quad] = stored.x;
  if (quad % KV_GROUP == 0u) { v_cache[at + D / 4u + quad / KV_GROUP] = stored.y; }
}
