"""Functions for probe.py: models from a hub, tokenizers, chat templates, JSON, saved sessions."""

from __future__ import annotations

import random
import sys
from typing import Any

from tests_e2e.probe_gpu import open_any


def set_endpoint(endpoint: str) -> None:
    """Set the hub for the next loads."""
    if sys.platform == "emscripten":
        import js

        js.jerboa.env.set("HF_ENDPOINT", endpoint)
    else:
        import os

        os.environ["HF_ENDPOINT"] = endpoint


async def greedy(
    endpoint: str,
    repo: str,
    prompts: list[list[int]],
    count: int,
    context: int = 1024,
    phone: bool = False,
) -> dict[str, Any]:
    """Load a model from a hub, continue each prompt greedily, and close. The dtype is f32; on a `phone` the page's
    default, which quantises. Also returns what stayed on the device."""
    from py_engine.host import open_gpu, open_io
    from py_engine.serve.engine import Engine

    set_endpoint(endpoint)
    gpu, io = await open_gpu(), open_io()
    try:
        dtype = "f32"
        if phone:
            import js

            js.jerboa.env.set("JERBOA_HANDHELD", "1")
            dtype = "auto"
        engine = await Engine.load(repo, gpu=gpu, io=io, dtype=dtype, context=context)
        tokens = [
            await engine.generate_ids(ids, max_tokens=count, ignore_eos=True) for ids in prompts
        ]
        info = engine.info()
        await engine.close()
        left = vars(gpu.counters)
        return {
            "tokens": tokens,
            "info": info,
            "buffers_left": left["live_buffers"],
            "ahead": left["max_steps_in_flight"],
        }
    finally:
        gpu.close()
        getattr(io, "close", lambda: None)()  # in CPython the io keeps connections open


async def quantised(endpoint: str, repo: str, layer: str, rows: int, cols: int) -> dict[str, Any]:
    """One plain layer of a hub's checkpoint, quantised to 4 bits while loading. Returns fields and pairs as hex."""
    from py_engine.abort import Abort
    from py_engine.graph.kernels import Kernels
    from py_engine.host import open_io
    from py_engine.sources.address import open_repository
    from py_engine.sources.safetensors import read_tensors
    from py_engine.weights.loader import Loader
    from py_engine.weights.store import WeightStore

    set_endpoint(endpoint)
    gpu, io = await open_any(), open_io()
    try:
        repository = await open_repository(repo, io)
        tensors = await read_tensors(repository)
        store = WeightStore(gpu, tensors, lambda _: None, form="q4", family="probe")
        (matrix,) = store.linear([layer], [rows], cols).parts
        await Loader(gpu, Kernels(gpu), repository, lambda _: None, Abort()).run(store.jobs)
        found = {}
        for name, tensor in (("fields", matrix.weight), ("pairs", matrix.scales)):
            assert tensor is not None and tensor.binding is not None
            found[name] = (await gpu.read(tensor.binding.buffer, 0, tensor.nbytes)).hex()
        return found
    finally:
        gpu.close()
        io.close()


async def tokenize(address: str, texts: list[str]) -> dict[str, Any]:
    """Ids of each text by the tokenizer.json at an address, and the texts decoded from them."""
    from py_engine.host import open_io
    from py_engine.inputs.tokenizer import Tokenizer

    io = open_io()
    try:
        file = io.to_bytes((await io.fetch(address)).body)
        tokenizer = await Tokenizer.load(file)
        ids = [tokenizer.encode(text) for text in texts]
        return {"ids": ids, "decoded": [tokenizer.decode(line) for line in ids]}
    finally:
        getattr(io, "close", lambda: None)()


async def prepare_chat() -> None:
    """Nothing to do: probe.mjs has put the wheels for chat templates where Python imports them."""


async def templates(sources: list[str]) -> list[dict[str, Any]]:
    """The outcome of each of these chat templates."""
    return [try_template(source) for source in sources]


def try_template(source: str) -> dict[str, Any]:
    """`error`: the message of the InputError, "" without one; `seconds`: the time that the template took."""
    from py_engine.errors import InputError
    from py_engine.inputs.sandbox import LimitedEnvironment
    from py_engine.inputs.template_budget import CLOCK

    environment = LimitedEnvironment()
    messages = [{"role": "user", "content": "hi"}]
    error = ""
    begun = CLOCK()
    try:
        template = environment.compile_limited(source)
        environment.render_limited(template, {"messages": messages})
    except InputError as refused:
        error = str(refused)
    return {"error": error, "seconds": CLOCK() - begun}


async def json_refusals(texts: list[str]) -> list[str]:
    """The errors of the reader of JSON from outside, for these texts (bytes come as latin-1)."""
    from py_engine.errors import FormatError
    from py_engine.host.json_text import parse_json

    found = []
    for text in texts:
        try:
            parse_json(text.encode("latin-1"), "it")
            found.append("")
        except FormatError as error:
            found.append(str(error))
    return found


async def session(endpoint: str, repo: str, name: str) -> dict[str, Any]:
    """Restore the session, or run a prompt and save it. Returns logits, and an answer that makes the KV cache grow."""
    import hashlib

    from py_engine.serve.engine import Engine

    set_endpoint(endpoint)
    async with await Engine.load(
        repo, dtype="f32", context=256, context_classes=(32, 96)
    ) as engine:
        saved = [info.name for info in await engine.list_sessions()]
        if name in saved:
            await engine.restore_session(name)
        else:
            await engine.generate_ids([(11 * i + 5) % 250 for i in range(40)], 9, ignore_eos=True)
            await engine.save_session(name)
        decoder = engine._loaded.decoder
        ids = [*decoder.prefix.ids, 7, 8, 9]
        logits = await engine.logits(ids, reuse=True)
        ran = decoder.prefilled
        answer = await engine.generate_ids([*ids, 1], 70, ignore_eos=True)
        return {
            "saved": saved,
            "ran": ran,
            "logits": hashlib.sha256(bytes(logits)).hexdigest(),
            "answer": answer,
            "class": engine.info()["context"]["class"],
        }


async def random_number() -> float:
    """A number from the module-level random generator."""

    return random.random()
