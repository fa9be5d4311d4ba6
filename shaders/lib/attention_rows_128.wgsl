// attention_rows_128.wgsl: how attention_prefill_units.wgsl is cut for heads of up to 128.

const BQ = 128u;       // query rows of a workgroup
const COL_PARTS = 2u;  // subgroups side by side over the columns of a head
const MOST_D = 128u;
