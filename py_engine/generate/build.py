"""From a config and a place for weights to a decoder whose passes are written down. Nothing is filled or compiled."""

from __future__ import annotations

from collections.abc import Sequence

from py_engine.blocks.kv_cache import CLASSES, KvDtype, classes_up_to
from py_engine.blocks.layers import Model
from py_engine.checks.tunings import Forms
from py_engine.errors import InputError, ModelError
from py_engine.generate.decoder import Decoder
from py_engine.generate.passes import PREFILL_ROWS
from py_engine.graph.kernels import Kernels
from py_engine.graph.submit import SubmitStrategy
from py_engine.host.device_storage import is_ios
from py_engine.host.gpu import Gpu
from py_engine.host.profile import DESKTOP, profile_of
from py_engine.models import build_model
from py_engine.sources.config import Config
from py_engine.weights.store import WeightStore

DEFAULT_CONTEXT = DESKTOP.context


def build_decoder(
    config: Config,
    store: WeightStore,
    gpu: Gpu,
    kernels: Kernels,
    *,
    context: int | None,
    kv_dtype: KvDtype,
    classes: Sequence[int] = CLASSES,
    strategy: SubmitStrategy | None = None,
    forms: Forms | None = None,
) -> Decoder:
    """Weights asked for from `store` (of the same GPU), state made, passes traced.

    `context`: tokens; None: the smaller of the model's and the device's (host/profile.py). `classes`: those below
    it are the sizes of KV cache that a text goes through, in tokens. `forms`: measured ones of kernels.
    Raises ModelError, InputError, OutOfMemoryError; then only what `store` holds stays allocated.
    """
    model = build_model(config, store)
    if not isinstance(model, Model):
        raise ModelError("this model generates no text")
    return decoder_of(
        model, gpu, kernels, context=context, kv_dtype=kv_dtype, classes=classes, strategy=strategy, forms=forms
    )  # fmt: skip


def decoder_of(
    model: Model,
    gpu: Gpu,
    kernels: Kernels,
    *,
    context: int | None,
    kv_dtype: KvDtype,
    classes: Sequence[int] = CLASSES,
    strategy: SubmitStrategy | None = None,
    forms: Forms | None = None,
) -> Decoder:
    """As build_decoder, of a model whose weights were asked for."""
    context = _context(context, model.max_context)
    # Rows of the largest prefill plan: no more than the context can fill.
    rows = min(PREFILL_ROWS[0], -(-context // 16) * 16)
    sizes = classes_up_to(context, classes)
    state = model.make_state(gpu, context, sizes[0], rows, kv_dtype)
    try:
        decoder = Decoder(gpu, kernels, model, state, sizes, strategy, forms)
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
        return min(most, profile_of(False, is_ios()).context)
    if isinstance(asked, bool) or not isinstance(asked, int) or not 1 <= asked <= most:
        raise InputError(f"context={asked!r}: this model takes 1 to {most} tokens")
    return asked
