// kv_append_f32.wgsl: appends to a KV cache of f32. The other forms, kv_append_f16 and kv_append_q8, define the same functions.
//
// The kernel supplies, beside what lib/kv_f32 asks for: `new_rows`: array<vec4<f32>, ..> in workgroup memory, in which whole
// rows stand before these functions are called: a form may look at more of a row than the quad that it stores.
// `start`: where the row begins there. Between the kernel's writes and the first call there is a barrier.
// Before it: kv_f32.

// Whether queries and keys are multiplied by a rotation of the form's own, which leaves their dot products as they are.
const KV_SPREADS = false;

// Quad `quad` of a query's or key's row, so multiplied. A kernel puts these in the row's place before it goes on.
fn kv_spread(start: u32, quad: u32) -> vec4<f32> { return new_rows[start + quad]; }

// Quad `quad` of a new row as the cache will hold it.
fn kv_new(start: u32, quad: u32) -> KvQuad { return new_rows[start + quad]; }

// Store quad `quad` of a new row as row `row`. A row is whole when this was called for each of its quads.
fn k_put(row: u32, start: u32, quad: u32) { k_cache[row * (D / 4u) + quad] = kv_new(start, quad); }

fn v_put(row: u32, start: u32, quad: u32) { v_cache[row * (D / 4u) + quad] = kv_new(start, quad); }
