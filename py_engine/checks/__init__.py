"""Checks of kernels on known inputs: one for each kind of call in a traced pass.

A check runs the same pipeline as the model, on small inputs of its own; only matrices are the model's. The right
results are computed in double precision from the same inputs, for a sample of the outputs. Reading order: inputs.py
(numbers from a hash), workbench.py (buffers), products.py (of the model's matrices), then a file for each family of
kernels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from py_engine.checks.attention import (
    decode_attention,
    prefill_attention,
    prefill_attention_units,
    rope,
)
from py_engine.checks.delta import delta_conv, delta_step
from py_engine.checks.delta_chunks import delta_chunk, delta_out, delta_scan
from py_engine.checks.encoders import full_attention, pool
from py_engine.checks.matrices import embed, matmul, matvec
from py_engine.checks.nearest import nearest_best, nearest_scores
from py_engine.checks.norms import layer_norm, narrow, norm, norm_parts, quantise
from py_engine.checks.patch_positions import gather_rows, patch_positions
from py_engine.checks.per_layer import end_layer, gate_by_signal
from py_engine.checks.pictures import patches, resample
from py_engine.checks.rotary import rope_angles, rotate_rows
from py_engine.checks.sampler import clear, mark, sample
from py_engine.checks.short_conv import short_conv
from py_engine.checks.workbench import Bench, Check
from py_engine.graph.trace import Call, Kernel

Maker = Callable[[Bench, Sequence[Call]], Check]

CHECKS: Mapping[str, Maker] = {
    "embed": embed,
    "norm": norm,
    "layer_norm": layer_norm,
    "norm_parts": norm_parts,
    "narrow": narrow,
    "quantise": quantise,
    "matvec": matvec,
    "matmul": matmul,
    "matmul_units": matmul,
    "matmul_dot4": matmul,
    "rope": rope,
    "rope_angles": rope_angles,
    "rotate_rows": rotate_rows,
    "attention_prefill": prefill_attention,
    "attention_prefill_units": prefill_attention_units,
    "attention_decode": decode_attention,
    "attention_full": full_attention,
    "pool": pool,
    "per_layer_gate": gate_by_signal,
    "per_layer_end": end_layer,
    "nearest_scores": nearest_scores,
    "nearest_best": nearest_best,
    "resample": resample,
    "patches": patches,
    "patch_positions": patch_positions,
    "gather_rows": gather_rows,
    "delta_conv": delta_conv,
    "delta_chunk": delta_chunk,
    "delta_scan": delta_scan,
    "delta_out": delta_out,
    "delta_step": delta_step,
    "short_conv": short_conv,
    "sample_argmax": sample,
    "sample_mark": mark,
    "sample_clear": clear,
}
# These are checked together with the call before them, because only they can read its result.
FOLLOWERS = frozenset({"attention_reduce", "sample_take", "sample_histogram", "sample_choose"})


def chains(calls: Iterable[Call]) -> Iterator[list[Call]]:
    """Calls in groups that are checked together: one call, and those that can only be checked with it."""
    chain: list[Call] = []
    for call in calls:
        if chain and call.kernel.stem not in FOLLOWERS:
            yield chain
            chain = []
        chain.append(call)
    if chain:
        yield chain


def distinct(calls: Iterable[Call]) -> dict[tuple[Kernel, ...], list[Call]]:
    """One chain for each combination of pipelines: the first."""
    found: dict[tuple[Kernel, ...], list[Call]] = {}
    for chain in chains(calls):
        found.setdefault(tuple(call.kernel for call in chain), chain)
    return found


def make_check(bench: Bench, chain: Sequence[Call]) -> Check:
    """Make the check of a chain: adds its buffers and its calls to the bench."""
    return CHECKS[chain[0].kernel.stem](bench, chain)
