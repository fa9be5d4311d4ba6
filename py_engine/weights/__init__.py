"""Weights into GPU buffers: which tensors a model needs, where each goes, and in which form."""
