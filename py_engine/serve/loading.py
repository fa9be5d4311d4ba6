"""From a model's address to a model that is ready: config, tokenizer, weights, kernels, plans."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import cast

from py_engine.abort import Abort
from py_engine.blocks.kv_cache import KvDtype
from py_engine.checks.autotune import chosen_forms
from py_engine.checks.self_check import total
from py_engine.encode.encoder import Encoder
from py_engine.encode.tower import TowerRunner
from py_engine.encode.vision import Sight, Vision
from py_engine.errors import InputError
from py_engine.generate.decoder import Decoder
from py_engine.graph.kernels import kernels_of
from py_engine.graph.submit import default_strategy
from py_engine.host.gpu import Gpu
from py_engine.host.io import Io
from py_engine.host.profile import adapter_profile, profile_of
from py_engine.inputs.chat_template import ChatTemplate
from py_engine.inputs.tokenizer import Tokenizer
from py_engine.models import encodes, is_tower, unread, unread_of_tower
from py_engine.serve.filling import fill
from py_engine.serve.memory import Estimate, MakeRoom, Setting, Taken, estimate, require_room
from py_engine.serve.options import (
    DEFAULTS,
    LoadOptions,
    Progress,
    VisionChoice,
    storage_of,
    tower_form,
)
from py_engine.serve.runtime import build_runtime, build_sight
from py_engine.serve.source import open_source
from py_engine.serve.vision import LaterTower, later_vision, open_reader
from py_engine.sources.config import Config, quantization
from py_engine.sources.safetensors import some
from py_engine.tasks.loaded import Loaded, TextSettings
from py_engine.weights.store import WeightStore


async def load_model(
    address: str,
    gpu: Gpu,
    io: Io,
    options: LoadOptions = DEFAULTS,
    *,
    make_room: MakeRoom | None = None,
    tell: Callable[[Progress], object] = lambda _: None,
    abort: Abort | None = None,
    before_weights: Callable[[], Awaitable[object]] | None = None,
) -> Loaded:
    """Load the model at `address`. After an error nothing stays allocated. Raises the errors of Engine.load.

    `make_room` gives what other
    models of the device take; None: there are none. `tell` is called with the progress. `before_weights` is awaited
    once everything but the weights was read and found right, before anything large is allocated.
    """
    started = io.now()
    abort = abort or Abort()
    kernels = kernels_of(gpu)
    tune = options.tune
    strategy, self_check = options.strategy or default_strategy(), options.self_check
    if make_room is None:
        budget = options.memory_budget or profile_of(io.handheld).memory_budget

        async def make_room(_: int) -> Taken:
            return Taken(budget)

    tell(Progress("config", message=f"Reading {address}"))

    def note(message: str) -> None:
        tell(Progress("note", message=message))

    if gpu.warning:
        note(gpu.warning)
    async with open_source(address, io, note, check=abort.check) as source:
        abort.check()
        asked = setting_of(options, source.config, io)
        setting, room = await require_room(
            address, source.config, source.make_store, gpu, asked, make_room
        )
        if setting.kv_dtype != asked.kv_dtype:
            note(
                f"The KV cache is kept in {setting.kv_dtype}: in {asked.kv_dtype} it would not fit."
            )
        if tune:
            tell(Progress("config", message="Measuring kernels on this device"))
            if strategy.await_each:
                tune = None  # measuring needs many dispatches in a command buffer, which this device may not survive
        begun: asyncio.Future[tuple[Tokenizer, ChatTemplate]] | None = None
        store: WeightStore | None = None
        runtime: Decoder | Encoder | TowerRunner | None = None
        sight: Sight | None = None
        tower_store: WeightStore | None = None
        try:
            forms = await chosen_forms(room.calls, gpu, io, kernels, tune)
            abort.check()
            begun = asyncio.ensure_future(source.tokenizer())
            if before_weights is not None:
                await asyncio.shield(begun)
                abort.check()
                await before_weights()
            store = source.make_store(gpu, setting.form)
            runtime = build_runtime(
                source.config, store, gpu, kernels,
                context=options.context, kv_dtype=setting.kv_dtype, exact=setting.exact,
                classes=options.context_classes, strategy=strategy, forms=forms, wide=room.wide_chunks,
            )  # fmt: skip
            if setting.vision == "auto" and not isinstance(runtime, TowerRunner):
                tower_store = source.make_store(gpu, tower_form(setting.form), tower=True)
                sight = build_sight(
                    source.config, tower_store, gpu, kernels, exact=setting.exact, strategy=strategy
                )
            await gpu.check()
            left = unread(store) + (unread_of_tower(sight.store) if sight and sight.store else [])
            if left:
                note(f"The weights hold tensors that this model does not read: {some(left)}.")
            wanted = self_check
            if wanted is None:
                wanted = adapter_profile(gpu.info.fallback).self_check
            stores = [store, *([tower_store] if tower_store else [])]
            peak = await fill(stores, source.repository, gpu, kernels, strategy, tell, abort)
            await kernels.compiled(partial(_tell_compiling, tell))
            if wanted:
                tell(Progress("kernels", message="Checking what this GPU computes"))
            parts = [runtime, *([sight.runner] if sight else [])]
            checked = total([await part.self_check().run() for part in parts]) if wanted else None
            for wrong in checked.wrong if checked else ():
                note(f"self-check: {wrong}")
            for part in parts:
                await part.plan()
            tokens, template = await begun
            await gpu.idle()
            vision, reader, unprepared = None, None, ""
            if isinstance(runtime, TowerRunner):
                vision = Vision(runtime.tower, sight=Sight(runtime))
            elif sight is not None:
                vision = Vision(sight.runner.tower, sight=sight)
            elif setting.vision == "lazy":
                vision = later_vision(
                    source,
                    LaterTower(
                        source.pinned,
                        gpu,
                        io,
                        setting,
                        strategy,
                        bool(wanted),
                        options.on_progress or (lambda _: None),
                    ),
                )
            if vision is not None:
                reader, unprepared = await open_reader(source, gpu, io, strategy)
            await source.commit()
            tell(Progress("ready", message="Ready"))
            text = None
            if isinstance(runtime, Decoder):
                text = TextSettings.of(
                    template, tokens, runtime.context, source.defaults, source.ignore_eos
                )
            return Loaded(
                name=address,
                pinned=source.pinned,
                family=source.config.get("model_type", "?"),
                dtype=options.dtype,
                form=setting.form,
                kv_dtype=setting.kv_dtype,
                io=io,
                store=store,
                runtime=runtime,
                tokenizer=tokens,
                generating=text,
                load_s=io.now() - started,
                peak_transient_bytes=peak,
                kept=source.kept,
                checked=checked,
                takes=room.peak_bytes,
                embedding=source.embedding,
                vision=vision,
                reader=reader,
                unprepared=unprepared,
            )
        except BaseException:
            if begun is not None:
                begun.cancel()
                await asyncio.gather(begun, return_exceptions=True)
            await kernels.forget_failed()
            for owned in (sight and sight.runner, tower_store, runtime, store):
                if owned is not None:
                    owned.release()
            raise


def _tell_compiling(tell: Callable[[Progress], object], done: int, of: int) -> None:
    tell(Progress("kernels", message=f"Compiling the GPU's programs: {done} of {of}"))


async def estimate_model(address: str, gpu: Gpu, io: Io, options: LoadOptions) -> Estimate:
    """What load_model would take on a device like `gpu`. Raises the errors of Engine.estimate."""
    async with open_source(address, io, lambda _: None, read_only=True) as source:
        setting = setting_of(options, source.config, io)
        found = await estimate(source.config, source.make_store, gpu, setting)
        return found.within(options.memory_budget or profile_of(io.handheld).memory_budget)


def setting_of(options: LoadOptions, config: Config, io: Io) -> Setting:
    """How a model of this config is loaded with these options on this device. Raises InputError for options of a KV
    cache where the model has none."""
    encoder = encodes(config) or is_tower(config)
    if encoder:
        for name, given in (
            ("kv", options.kv != "auto"),
            ("context_classes", options.context_classes is not None),
        ):
            if given:
                raise InputError(
                    f"{name}: this model is an encoder and has no KV cache; leave the option out"
                )
    dtype = options.dtype
    if dtype == "auto":
        dtype = profile_of(io.handheld).dtype
        if dtype == "q4" and encoder:
            # Vectors are compared with those of other devices; of MiniLM in 4 bits their cosine is 0.88.
            dtype = "f16"
    form, usual = storage_of(dtype)
    exact = usual == "f32"
    kv_dtype = usual if options.kv == "auto" else cast(KvDtype, options.kv)
    if form in ("q4", "q8") and quantization(config) is not None:
        form = "stored"  # layers that a quantised checkpoint left plain were left so on purpose
    kv_free = options.kv == "auto" and not exact and not encoder
    vision = cast(VisionChoice, options.vision)
    if vision == "auto" and io.handheld:
        vision = "lazy"
    return Setting(form, kv_dtype, options.context, exact, kv_free, vision)
