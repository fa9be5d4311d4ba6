// sample_mode.wgsl: which way the best tokens are found. The kernel supplies var sampling. After: sample_top.

// A small top-k needs no histogram: the k-th best token is no worse than the k-th best of the blocks' best ones, and while
// k is small beside the number of blocks few tokens are better than that.
fn by_blocks() -> bool { return sampling.top_k > 0u && sampling.top_k <= block_count() / 4u && sampling.top_k <= LIST; }
