"""How much GPU memory a load takes, found on a GPU that only counts; and the errors of loads that are too large."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from py_engine.blocks.kv_cache import KvDtype
from py_engine.encode.vision import Sight, Vision
from py_engine.errors import InputError, MemoryBudgetError, OutOfMemoryError
from py_engine.generate.build import DEFAULT_CONTEXT
from py_engine.graph.kernels import Kernels
from py_engine.graph.trace import Call
from py_engine.host.gpu import Gpu
from py_engine.host.gpu_counting import CountingGpu
from py_engine.host.profile import adapter_profile
from py_engine.models import is_tower
from py_engine.serve.options import VisionChoice, tower_form
from py_engine.serve.runtime import build_runtime, build_sight
from py_engine.sources.config import Config, quantization
from py_engine.weights.formats import StorageForm
from py_engine.weights.loader import cut, staging_bytes
from py_engine.weights.store import WeightStore


@dataclass(frozen=True)
class Taken:
    """The most GPU bytes that the other models of a device take, by name, and the `budget` for all (None: no limit)."""

    budget: int | None
    models: Sequence[tuple[str, int]] = ()

    @property
    def left(self) -> int | None:
        """Bytes that are left for one more model; None: no limit."""
        return None if self.budget is None else self.budget - sum(n for _, n in self.models)

    def __str__(self) -> str:
        return ", ".join(f"{name} {mb(nbytes)}" for name, nbytes in self.models)


# What the other models take, after room was made for so many bytes where the load asks for it.
MakeRoom = Callable[[int], Awaitable[Taken]]


class MakeStore(Protocol):
    """Makes an empty store of a model's weights on a GPU (serve/source.py). `tower`: of its vision tower."""

    def __call__(self, gpu: Gpu, form: StorageForm, *, tower: bool = False) -> WeightStore: ...


@dataclass(frozen=True)
class Setting:
    """How a model would be loaded. `context`: tokens; None: the engine chooses. `exact`: activations are not rounded.
    `kv_free`: the KV cache may be q8 instead, where the model would not fit else. `vision`: a tower beside the text
    model is loaded with it ("auto"), with the first picture, or never."""

    form: StorageForm
    kv_dtype: KvDtype
    context: int | None
    exact: bool = False
    kv_free: bool = False
    vision: VisionChoice = "auto"


@dataclass(frozen=True)
class Estimate:
    """GPU bytes of a model whose text fills the context: exactly what `info()["memory"]` then says.

    `by_kind`: weights_bytes, state_bytes, snapshot_bytes, activation_bytes; where the model sees pictures, also
    vision_weights_bytes and vision_bytes, of the largest picture, though they may come later. `peak_bytes`: the most at
    any time, with the loader's staging buffer, and with both buffers of the layers that the last growth moves.
    `loaded_bytes`: the total after the load, with the smallest KV cache, and with "lazy" without the tower. `context`:
    tokens that all this is for. `wide_chunks`: whether long prompts run in wide chunks (generate/passes.py); `wide`:
    the estimate with those, if this one is without and the device has room for them.
    """

    context: int
    by_kind: Mapping[str, int]
    loaded_bytes: int
    peak_bytes: int
    calls: Sequence[Call] = field(default=(), repr=False, compare=False)  # of all passes
    wide_chunks: bool = False
    wide: Estimate | None = field(default=None, repr=False, compare=False)

    @property
    def total_bytes(self) -> int:
        """The sum of all kinds."""
        return sum(self.by_kind.values())

    def within(self, left: int | None) -> Estimate:
        """The estimate with wide chunks where there are so many bytes (None: no limit), else this one."""
        wide = self.wide
        return wide if wide and (left is None or wide.peak_bytes <= left) else self

    def to_dict(self) -> dict[str, Any]:
        """The numbers as a dict, for `--json` and the worker."""
        return {
            "context": self.context,
            **self.by_kind,
            "total_bytes": self.total_bytes,
            "loaded_bytes": self.loaded_bytes,
            "peak_bytes": self.peak_bytes,
        }

    def __str__(self) -> str:
        kinds = ", ".join(f"{k.removesuffix('_bytes')} {mb(v)}" for k, v in self.by_kind.items())
        extra = self.peak_bytes - self.total_bytes
        return f"{mb(self.peak_bytes)} ({kinds}" + (f", for a time {mb(extra)})" if extra else ")")


async def estimate(config: Config, make_store: MakeStore, gpu: Gpu, setting: Setting) -> Estimate:
    """What a load takes on a device like `gpu`. Allocates nothing there.

    Raises the errors that a load finds before its first byte: ModelError for a checkpoint that does not fit its config,
    InputError for a context beyond the model's, OutOfMemoryError for a buffer above the device's limits.
    """
    paper = CountingGpu.like(gpu)
    kernels = Kernels(paper)
    try:
        store = make_store(paper, setting.form)
        runtime = build_runtime(
            config, store, paper, kernels,
            context=setting.context, kv_dtype=setting.kv_dtype, exact=setting.exact,
            wide=adapter_profile(gpu.info.fallback).wide_chunks,
        )  # fmt: skip
        sight: Sight | None = None
        if setting.vision == "auto":
            sight = _sight(config, make_store, paper, kernels, setting)
        # The order of a load: the weights stream in through staging, then the activations are made.
        jobs = [*store.jobs, *(sight.store.jobs if sight and sight.store else [])]
        paper.destroy_buffer(paper.create_buffer("staging", staging_bytes(cut(jobs))))
        await runtime.plan()
        if sight is not None:
            await sight.runner.plan()
        loaded = paper.counters.live_bytes
        calls = list(runtime.programs.calls)
        if setting.vision == "lazy" and (
            sight := _sight(config, make_store, paper, kernels, setting)
        ):
            assert sight.store is not None
            jobs = sight.store.jobs
            paper.destroy_buffer(paper.create_buffer("staging", staging_bytes(cut(jobs))))
            await sight.runner.plan()
        if sight is not None:
            await sight.runner.fill()

        def told(wide_chunks: bool) -> Estimate:
            by_kind = {"weights_bytes": store.nbytes, **runtime.memory()}
            by_kind |= Vision(sight.runner.tower, sight=sight).memory() if sight else {}
            assert sum(by_kind.values()) == paper.counters.live_bytes
            peak = paper.peak_bytes
            return Estimate(runtime.context, by_kind, loaded, peak, calls, wide_chunks)

        await runtime.fill()
        narrow = told(False)
        with suppress(OutOfMemoryError):
            if await runtime.widen():
                await runtime.fill()
                return replace(narrow, wide=told(True))
        return narrow
    finally:
        await kernels.settle()


def _sight(
    config: Config, make_store: MakeStore, gpu: Gpu, kernels: Kernels, setting: Setting
) -> Sight | None:
    """The tower beside a text model; None where there is none."""
    if is_tower(config):
        return None
    store = make_store(gpu, tower_form(setting.form), tower=True)
    return build_sight(config, store, gpu, kernels, exact=setting.exact)


async def require_room(
    address: str,
    config: Config,
    make_store: MakeStore,
    gpu: Gpu,
    setting: Setting,
    make_room: MakeRoom,
) -> tuple[Setting, Estimate]:
    """The setting and its estimate, if the model fits beside the other models into the budget and the device's limits;
    with a KV cache in q8 where it fits only so and the setting leaves that free.

    Raises MemoryBudgetError or OutOfMemoryError that give the numbers and say what would fit, and errors of `estimate`.
    """
    setting, free = replace(setting, kv_free=False), setting.kv_free
    choices = [setting, replace(setting, kv_dtype="q8")] if free else [setting]
    for choice in choices:
        refusal: OutOfMemoryError | None = None
        try:
            found = await estimate(config, make_store, gpu, choice)
        except OutOfMemoryError as error:
            refusal = error
            taken = await make_room(0)
        else:
            taken = await make_room(found.peak_bytes)
            if taken.left is None or found.peak_bytes <= taken.left:
                return choice, found.within(taken.left)
    advice = await _advice(config, make_store, gpu, choices, taken.left)
    if refusal is not None:
        raise OutOfMemoryError(f"{refusal} {advice}") from refusal
    left, budget = taken.left, taken.budget
    assert left is not None and budget is not None
    others = f" of which other models take {mb(budget - left)} ({taken})" if taken.models else ""
    if others:
        advice += (
            " Or unload another model: by close(), or with make_room=True those that are idle."
        )
    raise MemoryBudgetError(
        f"{address} with a context of {found.context} and a KV cache in {choice.kv_dtype} needs {found} of GPU memory, "
        f"more than the budget of {mb(budget)}{others}; nothing was loaded. {advice}",
        found.peak_bytes,
        budget,
    )


async def _advice(
    config: Config,
    make_store: MakeStore,
    gpu: Gpu,
    refused: Sequence[Setting],
    budget: int | None,
) -> str:
    """A sentence on what would fit: a smaller context, a KV cache in q8, 4-bit weights of a plain checkpoint."""
    setting = refused[0]
    asked = setting.context or DEFAULT_CONTEXT
    contexts = [asked, *(1 << n for n in range((asked - 1).bit_length() - 1, 7, -1))]
    # Each with what it is called; the ones that change more come later.
    choices = [(setting, "")]
    if setting.kv_dtype != "q8" and not setting.exact:
        choices.append((replace(setting, kv_dtype="q8"), 'kv="q8"'))
    if quantization(config) is None:
        choices.append((Setting("q4", "f16", None, vision=setting.vision), 'dtype="q4"'))
        choices.append(
            (Setting("q4", "q8", None, vision=setting.vision), 'dtype="q4" with kv="q8"')
        )
    fitting = []
    largest = 0
    for choice, name in choices:
        left = [n for n in contexts if n > largest and (n < asked or choice not in refused)]
        found = await _largest(config, make_store, gpu, choice, left, budget)
        if found is not None:
            largest = found.context
            words = [name] if name else []
            words += [f"context={largest}"] if largest != asked else []
            fitting.append(f"{' with '.join(words)} ({mb(found.peak_bytes)}, KV {choice.kv_dtype})")
    if not fitting:
        return (
            "Neither a smaller context nor 4-bit weights of it would fit: choose a smaller model."
        )
    return f"What would fit: {', or '.join(fitting)}."


async def _largest(
    config: Config,
    make_store: MakeStore,
    gpu: Gpu,
    setting: Setting,
    contexts: Sequence[int],
    budget: int | None,
) -> Estimate | None:
    """The estimate for the first of `contexts`, which fall, that fits the budget and the limits of model and device."""
    best: Estimate | None = None
    low, high = 0, len(contexts)
    while low < high:
        middle = (low + high) // 2
        try:
            found = await estimate(
                config, make_store, gpu, replace(setting, context=contexts[middle])
            )
        except (OutOfMemoryError, InputError):
            found = None
        if found is not None and (budget is None or found.peak_bytes <= budget):
            best, high = found.within(budget), middle
        else:
            low = middle + 1
    return best


def mb(nbytes: int) -> str:
    """Decimal megabytes, rounded up: the number that is shown is enough."""
    return f"{-(-nbytes // 10**6):,} MB"
