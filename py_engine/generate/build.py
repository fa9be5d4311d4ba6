"""From a model to a decoder whose passes are traced. Nothing is filled or compiled yet."""

from __future__ import annotations

from collections.abc import Sequence

from py_engine.blocks.kv_cache import KvDtype
from py_engine.blocks.layers import Model
from py_engine.checks.tunings import Forms
from py_engine.errors import InputError
from py_engine.generate.cache_growth import Sizes
from py_engine.generate.decoder import Decoder
from py_engine.generate.passes import PREFILL_ROWS, chunk_rows
from py_engine.graph.kernels import Kernels
from py_engine.graph.submit import SubmitStrategy
from py_engine.host.device_storage import is_ios
from py_engine.host.gpu import Gpu
from py_engine.host.profile import DESKTOP, profile_of

DEFAULT_CONTEXT = DESKTOP.context


def build_decoder(
    model: Model,
    gpu: Gpu,
    kernels: Kernels,
    *,
    context: int | None,
    kv_dtype: KvDtype,
    exact: bool,
    classes: Sequence[int] | None = None,
    strategy: SubmitStrategy | None = None,
    forms: Forms | None = None,
    wide: bool = False,
) -> Decoder:
    """A decoder of `model`, whose weights are on the same GPU, filled or not. Makes the state and traces the passes.

    `context`: tokens; None: the smaller of the model's and the device's (host/profile.py). `classes`: fixed
    sizes of the KV cache, in tokens, up to the context (generate/cache_growth.py). `exact`, `forms`, `strategy`: as for
    Runtime. `wide`: long prompts run in chunks of WIDE_ROWS (generate/passes.py), for which there is room when they
    come.
    Raises InputError, OutOfMemoryError; then only the weights stay allocated.
    """
    context = _context(context, model.max_context)
    rows = chunk_rows(context, PREFILL_ROWS[0])
    sizes = Sizes.of(context, classes)
    state = model.make_state(gpu, context, sizes.first, rows, kv_dtype)
    try:
        decoder = Decoder(gpu, kernels, model, state, sizes, exact, strategy, forms, wide)
    except BaseException:
        state.release()
        raise
    try:
        decoder.trace()
    except BaseException:
        decoder.release()
        raise
    return decoder


def _context(asked: int | None, most: int) -> int:
    if asked is None:
        return min(most, profile_of(handheld=is_ios(), ios=is_ios()).context)
    if isinstance(asked, bool) or not isinstance(asked, int) or not 1 <= asked <= most:
        raise InputError(f"context={asked!r}: this model takes 1 to {most} tokens")
    return asked
