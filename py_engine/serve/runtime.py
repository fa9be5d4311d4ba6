"""From a config and a store of weights to what runs such a model, its passes traced: a decoder, an encoder of texts or
of pictures, and the tower beside a decoder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from py_engine.arguments import whole
from py_engine.blocks.encoder import EncoderModel
from py_engine.blocks.kv_cache import KvDtype
from py_engine.blocks.vision import Tower
from py_engine.checks.tunings import Forms
from py_engine.encode.encoder import Encoder
from py_engine.encode.tower import TowerRunner
from py_engine.encode.vision import Sight
from py_engine.errors import InputError
from py_engine.generate.build import DEFAULT_CONTEXT, build_decoder
from py_engine.generate.decoder import Decoder
from py_engine.graph.kernels import Kernels
from py_engine.graph.submit import SubmitStrategy
from py_engine.host.gpu import Gpu
from py_engine.models import build_model, build_tower
from py_engine.sources.config import Config
from py_engine.weights.store import WeightStore

R = TypeVar("R", Encoder, TowerRunner)


def build_runtime(
    config: Config,
    store: WeightStore,
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
) -> Decoder | Encoder | TowerRunner:
    """What runs the model of `config`. Its weights are asked for from `store`, which is of the same GPU and need not be
    filled yet.

    Options as for build_decoder (generate/build.py). An encoder has no KV cache.
    Raises ModelError, InputError, OutOfMemoryError; then only what `store` holds stays allocated.
    """
    model = build_model(config, store)
    if isinstance(model, Tower):
        if context is not None:
            raise InputError("context: this model reads pictures, not texts; leave it out")
        return _traced(TowerRunner(gpu, kernels, model, exact=exact, strategy=strategy))
    if not isinstance(model, EncoderModel):
        return build_decoder(
            model, gpu, kernels, context=context, kv_dtype=kv_dtype, exact=exact, classes=classes,
            strategy=strategy, forms=forms, wide=wide,
        )  # fmt: skip
    most = model.max_context
    longest = min(most, DEFAULT_CONTEXT) if context is None else whole("context", context, 1, most)
    return _traced(
        Encoder(gpu, kernels, model, longest, exact=exact, strategy=strategy, forms=forms)
    )


def build_sight(
    config: Config,
    store: WeightStore,
    gpu: Gpu,
    kernels: Kernels,
    *,
    exact: bool,
    strategy: SubmitStrategy | None = None,
) -> Sight | None:
    """The tower beside a text model, traced; its weights are asked for from `store`, which becomes its own. None: there
    is no tower. Raises ModelError, OutOfMemoryError; then `store` stays allocated."""
    tower = build_tower(config, store)
    if tower is None:
        return None
    runner = TowerRunner(gpu, kernels, tower, exact=exact, strategy=strategy)
    return Sight(_traced(runner), store)


def _traced(runtime: R) -> R:
    try:
        runtime.trace()
    except BaseException:
        runtime.release()
        raise
    return runtime
