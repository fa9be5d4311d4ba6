// chunk.wgsl: 32 consecutive elements of a row in registers: what one step of a matrix kernel works on.

struct Chunk {
  v0: vec4<f32>, v1: vec4<f32>, v2: vec4<f32>, v3: vec4<f32>,
  v4: vec4<f32>, v5: vec4<f32>, v6: vec4<f32>, v7: vec4<f32>,
}

struct Octet { lo: vec4<f32>, hi: vec4<f32> }  // a quarter of one

fn vec4_sum(v: vec4<f32>) -> f32 {
  return (v.x + v.y) + (v.z + v.w);
}

fn chunk_dot(a: Chunk, b: Chunk) -> f32 {
  var s = a.v0 * b.v0;
  s += a.v1 * b.v1;
  s += a.v2 * b.v2;
  s += a.v3 * b.v3;
  s += a.v4 * b.v4;
  s += a.v5 * b.v5;
  s += a.v6 * b.v6;
  s += a.v7 * b.v7;
  return vec4_sum(s);
}

fn chunk_sum(a: Chunk) -> f32 {
  return vec4_sum(((a.v0 + a.v1) + (a.v2 + a.v3)) + ((a.v4 + a.v5) + (a.v6 + a.v7)));
}

fn chunk_mul(a: Chunk, b: Chunk) -> Chunk {
  return Chunk(a.v0 * b.v0, a.v1 * b.v1, a.v2 * b.v2, a.v3 * b.v3,
               a.v4 * b.v4, a.v5 * b.v5, a.v6 * b.v6, a.v7 * b.v7);
}

// a * scale + offset, element by element.
fn chunk_affine(a: Chunk, scale: f32, offset: f32) -> Chunk {
  return Chunk(a.v0 * scale + offset, a.v1 * scale + offset, a.v2 * scale + offset, a.v3 * scale + offset,
               a.v4 * scale + offset, a.v5 * scale + offset, a.v6 * scale + offset, a.v7 * scale + offset);
}
