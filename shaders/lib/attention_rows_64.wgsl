// attention_rows_64.wgsl: how attention_prefill_units.wgsl is cut for heads of 192 and 256.

const BQ = 64u;        // query rows of a workgroup
const COL_PARTS = 4u;  // subgroups side by side over the columns of a head
const MOST_D = 256u;
