"""Text encoders of every family against transformers and sentence-transformers (tests/goldens/make_encoders.py): all
poolings, texts shorter and longer than a window, alone and packed, prompts, dimensions, and the forms of a load.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from devtools import bench_rows
from py_engine.abort import Abort
from py_engine.diagnostics import encoder_bench
from py_engine.diagnostics.bench import BenchOptions, bench
from py_engine.errors import InputError, ModelError
from py_engine.host.gpu import Gpu
from py_engine.serve.engine import Engine
from tests import reference
from tests.checkpoints import Checkpoint, Stored
from tests.conftest import Runner
from tests.reference import nmse

NAMES = sorted(path.parent.name for path in reference.GOLDENS.glob("*/encoder.npz"))


@pytest.fixture(scope="module")
def device(wgpu: Gpu) -> Gpu:
    return wgpu


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


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        ("encoder-gemma3", "auto"),
        ("encoder-gemma3-mlx4-g32", "auto"),
        ("encoder-xlm-roberta", "auto"),
        ("encoder-xlm-roberta", "f16"),
    ],
)
def test_default_forms(device: Gpu, run: Runner, name: str, dtype: str) -> None:
    """What phones and other devices take by themselves."""
    wanted = golden(name)

    async def work() -> None:
        async with await Engine.load(
            str(reference.folder(name)), gpu=device, dtype=dtype
        ) as engine:
            runtime: Any = engine._loaded.runtime
            lengths = (130, 7)
            texts = [wanted[f"ids_{n}"].tolist() for n in lengths]
            found = np.frombuffer(await runtime.embed(texts, "mean", Abort()), np.float32)
            for row, n in zip(found.reshape(2, -1), lengths, strict=True):
                assert row @ wanted[f"mean_{n}"] >= 0.999

    run(work())


def test_activations_may_exceed_float16(device: Gpu, run: Runner, tmp_path: Path) -> None:
    """EmbeddingGemma's do: here the residual stream comes to more than 65504."""
    made = Checkpoint.golden("encoder-gemma3")
    name = "layers.0.post_feedforward_layernorm.weight"
    made.tensors[name] = Stored.of(made.tensors[name].values * 0 + 1e6, "F32")
    made.write(tmp_path / "model")
    for extra in ("modules.json", "1_Pooling", "2_Dense", "3_Dense"):
        source = reference.folder("encoder-gemma3") / extra
        (shutil.copytree if source.is_dir() else shutil.copy)(source, tmp_path / "model" / extra)

    async def vector(dtype: str) -> np.ndarray:
        async with await Engine.load(str(tmp_path / "model"), gpu=device, dtype=dtype) as engine:
            return np.asarray((await engine.embed(["hello again"]))[0]).copy()

    exact, narrow = run(vector("f32")), run(vector("f16"))
    assert np.isfinite(narrow).all() and exact @ narrow >= 0.999


POOLED = [{"type": "sentence_transformers.models.Pooling", "path": "1_Pooling"}]


@pytest.mark.parametrize(
    ("name", "config", "message"),
    [
        ("qwen3.5-mlx4-g64", {}, "an encoder with layers other than attention and MLP"),
        ("gemma2", {}, "an encoder with capped scores"),
        ("encoder-embedding-gemma2", {"per_layer_config": [1]}, "per_layer_config is"),
        ("encoder-embedding-gemma2", {"per_layer_config": {"1": {"head_dim": 22}}}, "head_dim 22 of layer 1"),
        ("encoder-embedding-gemma2", {"num_attention_heads": 3}, "3 attention heads cannot share 2"),
        ("encoder-modernbert", {"num_attention_heads": 7}, "7 heads"),
        ("encoder-modernbert", {"layer_types": ["full_attention"]}, "layer_types has 1 entries"),
        ("encoder-xlm-roberta", {"pad_token_id": 700}, "max_position_embeddings"),
        ("encoder-gemma3", {"use_bidirectional_attention": "yes"}, "expected true or false"),
    ],
)  # fmt: skip
def test_refused(
    device: Gpu, run: Runner, tmp_path: Path, name: str, config: dict[str, Any], message: str
) -> None:
    """Before anything is allocated, with the key that is wrong."""
    folder = tmp_path / "model"
    shutil.copytree(reference.folder(name), folder)
    given = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**given, **config}))
    if not (folder / "modules.json").exists():
        (folder / "modules.json").write_text(json.dumps(POOLED))
        (folder / "1_Pooling").mkdir()
        (folder / "1_Pooling" / "config.json").write_text('{"pooling_mode": "mean"}')
    with pytest.raises(ModelError, match=message):
        run(Engine.estimate(str(folder), gpu=device, dtype="f32"))


def test_a_chat_model_stays_a_decoder(device: Gpu, run: Runner, tmp_path: Path) -> None:
    """Of the same family: modules.json with a Pooling module makes the difference, or rows that see both sides."""
    folder = tmp_path / "model"
    shutil.copytree(reference.folder("encoder-qwen3"), folder)
    (folder / "modules.json").unlink()
    plain = run(Engine.estimate(str(folder), gpu=device, dtype="f32", kv="q8"))
    assert plain.by_kind["state_bytes"] > 0
    with pytest.raises(InputError, match="this model is an encoder"):
        run(Engine.estimate(str(reference.folder("encoder-qwen3")), gpu=device, kv="q8"))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "is_causal": False}))
    with pytest.raises(InputError, match="this model is an encoder"):
        run(Engine.estimate(str(folder), gpu=device, kv="q8"))


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
