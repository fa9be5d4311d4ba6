"""Text encoders of every family against transformers and sentence-transformers (tests/goldens/make_encoders.py): all
poolings, texts shorter and longer than a window, alone and packed, prompts, dimensions, and the forms of a load.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from devtools import bench_rows
from py_engine.abort import Abort
from py_engine.diagnostics import encoder_bench
from py_engine.diagnostics.bench import BenchOptions, bench
from py_engine.host.gpu import Gpu
from py_engine.serve.engine import Engine
from tests import reference
from tests.conftest import Runner
from tests.reference import nmse

NAMES = sorted(path.parent.name for path in reference.GOLDENS.glob("*/encoder.npz"))


@pytest.fixture(scope="module")
def device(wgpu: Gpu) -> Gpu:
    return wgpu


@pytest.fixture(scope="module")
def engines(device: Gpu, run: Runner) -> Iterator[Callable[[str], Engine]]:
    """Each encoder in float32, loaded once and checked."""
    loaded: dict[str, Engine] = {}

    def load(name: str) -> Engine:
        if name not in loaded:
            path = str(reference.folder(name))
            loaded[name] = run(Engine.load(path, gpu=device, dtype="f32", self_check=True))
        return loaded[name]

    yield load
    for engine in loaded.values():
        run(engine.close())
    assert device.counters.live_buffers == 0


def golden(name: str) -> Any:
    return np.load(reference.folder(name) / "encoder.npz")


def vectors(engine: Engine, run: Runner, texts: list[list[int]], pooling: str) -> np.ndarray:
    """The unit vectors of texts pooled so, one after another."""
    runtime: Any = engine._loaded.runtime
    return np.frombuffer(run(runtime.embed(texts, pooling, Abort())), np.float32)


@pytest.mark.parametrize("name", NAMES)
def test_vectors_are_those_of_transformers(
    engines: Callable[[str], Engine], run: Runner, name: str
) -> None:
    engine, wanted = engines(name), golden(name)
    assert engine.info()["self_check"]["wrong"] == []

    def check(pooling: str, *lengths: int) -> None:
        rows = np.stack([wanted[f"{pooling}_{n}"] for n in lengths])
        found = vectors(engine, run, [wanted[f"ids_{n}"].tolist() for n in lengths], pooling)
        assert nmse(found, rows.ravel()) <= reference.NMSE_F32, (pooling, lengths)

    check("mean", 600, 1, 130, 7)
    check("first", 7, 130, 1)
    check("last", 130, 1, 7)
    for n in (1, 7, 130):  # alone
        check("mean", n)


@pytest.mark.parametrize("name", NAMES)
def test_texts_are_those_of_sentence_transformers(
    engines: Callable[[str], Engine], run: Runner, name: str
) -> None:
    """Ids with the prompt of each task, the modules behind the network, and fewer dimensions."""
    engine = engines(name)

    async def ask() -> None:
        for case in json.loads(str(golden(name)["texts"])):
            settings: Any = engine._loaded.embedding
            prompt = settings.prompt(case["task"])
            assert (
                engine._loaded.tokenizer.encode(prompt + case["text"], add_special_tokens=True)
                == case["ids"]
            )
            full = await engine.embed([case["text"]], task=case["task"])
            assert nmse(np.asarray(full[0]), case["vector"]) <= reference.NMSE_F32
            cut = await engine.embed([case["text"]], task=case["task"], dimensions=len(case["cut"]))
            assert nmse(np.asarray(cut[0]), case["cut"]) <= reference.NMSE_F32

    run(ask())


def test_bench(
    engines: Callable[[str], Engine], run: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What `bench` prints of an encoder, and the row of the benchmarks' table, between those of decoders."""
    monkeypatch.setattr(encoder_bench, "BATCHES", ((1, 8), (3, 40)))
    result = run(bench(engines("encoder-gemma3"), BenchOptions()))
    shapes = [
        (batch["texts"], batch["tokens"], len(batch["ms_all"])) for batch in result["batches"]
    ]
    assert shapes == [(1, 8, 3), (3, 40, 3)]
    head, row, again = bench_rows.table([json.loads(json.dumps(result))] * 2)
    names, rule = head.splitlines()
    assert names.count("|") == rule.count("|") == row.count("|") and row == again
    assert "`goldens/encoder-gemma3`" in row and f"{result['batches'][1]['ms']:.3g}" in row
