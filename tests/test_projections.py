"""Dense modules after the pooling of a text encoder (`2_Dense/`): their vectors against NumPy's, computed from the
pooled vectors; and folders that are incomplete or contradict each other.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from py_engine.errors import FormatError, ModelError
from py_engine.host.gpu import Gpu
from py_engine.serve.engine import Engine
from py_engine.serve.options import Progress
from tests import reference
from tests.checkpoints import Stored, write_tensors
from tests.conftest import Runner
from tests.reference import nmse

WIDTH = 60  # the encoder's width
TEXTS = ["hello world", "jerboas", "a longer text of more words than the others have"] * 30
TORCH = "torch.nn.modules."
ACTIVATIONS: Mapping[str, Callable[[Any], Any]] = {
    "linear.Identity": lambda v: v,
    "activation.Tanh": np.tanh,
    "activation.ReLU": lambda v: np.maximum(v, 0),
    "activation.SiLU": lambda v: v / (1 + np.exp(-v)),
}


@pytest.fixture(scope="module")
def device(open_software_gpu: Callable[..., Gpu]) -> Gpu:
    return open_software_gpu("wgpu")


def dense(
    folder: Path, place: str, size: tuple[int, int], activation: str, bias: bool = True, dtype: str = "F32"
) -> Callable[[np.ndarray], np.ndarray]:  # fmt: skip
    """Write a Dense module of random weights into a repository. Returns a function that computes it."""
    rng = np.random.default_rng(size[0])
    n_in, n_out = size
    weight = Stored.of(rng.standard_normal((n_out, n_in)).astype(np.float32), dtype)
    tensors = {"linear.weight": weight}
    added = np.zeros(n_out)
    if bias:
        tensors["linear.bias"] = Stored.of(rng.standard_normal(n_out).astype(np.float32), dtype)
        added = tensors["linear.bias"].values.astype(np.float64)
    (folder / place).mkdir()
    write_tensors(folder / place / "model.safetensors", tensors)
    config = {
        "in_features": n_in, "out_features": n_out, "bias": bias, "activation_function": TORCH + activation,
    }  # fmt: skip
    (folder / place / "config.json").write_text(json.dumps(config))
    matrix = weight.values.astype(np.float64)
    return lambda rows: np.asarray(ACTIVATIONS[activation](rows @ matrix.T + added))


def repository(tmp_path: Path, *places: str, name: str = "bert-f32") -> Path:
    """A copy of a golden with these modules after its pooling."""
    folder = tmp_path / "model"
    shutil.copytree(reference.folder(name), folder)
    kinds = [
        ("Transformer", ""),
        ("Pooling", "1_Pooling"),
        *(("Dense", place) for place in places),
        ("Normalize", "9"),
    ]
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (kind, path) in enumerate(kinds)
    ]  # fmt: skip
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir(exist_ok=True)
    pooling = {"word_embedding_dimension": WIDTH, "pooling_mode_mean_tokens": True}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    return folder


class Told:
    """One load: its notes, vectors and memory, and the estimate for it. Everything is freed again."""

    def __init__(self, run: Runner, device: Gpu, folder: Path, **options: Any) -> None:
        self.notes: list[str] = []

        def note(progress: Progress) -> None:
            if progress.phase == "note":
                self.notes.append(progress.message)

        async def work() -> None:
            async with await Engine.load(
                str(folder), gpu=device, on_progress=note, **options
            ) as engine:
                self.checked = engine.info()["self_check"]
                self.memory = engine.info()["memory"]
                answer = await engine.embed(TEXTS)
                self.dimensions, self.rows = answer.dimensions, np.stack([*map(np.asarray, answer)])
                self.short = np.asarray((await engine.embed(TEXTS[:1], dimensions=5))[0])

        run(work())
        self.estimate = run(
            Engine.estimate(
                str(folder), gpu=device, **{k: v for k, v in options.items() if k == "dtype"}
            )
        )
        assert device.counters.live_buffers == 0


def unit(rows: np.ndarray) -> np.ndarray:
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True))


@pytest.fixture(scope="module")
def pooled(device: Gpu, run: Runner) -> np.ndarray:
    """The mean of each text's last hidden states, float64 [texts, WIDTH]."""

    async def work() -> np.ndarray:
        path = str(reference.folder("bert-f32"))
        async with await Engine.load(path, gpu=device, dtype="f32") as engine:
            means = {}
            for text in {*TEXTS}:
                count = (await engine.embed([text])).prompt_tokens
                states: Any = engine._loaded.runtime
                rows = np.frombuffer(await device.read(states._hidden.buffer), np.float32)
                means[text] = rows.reshape(-1, WIDTH)[:count].astype(np.float64).mean(0)
            return np.stack([means[text] for text in TEXTS])

    found: np.ndarray = run(work())
    return found


@pytest.mark.parametrize(("dtype", "most"), [("f32", reference.NMSE_F32), ("q8", 1e-4)])
def test_modules_one_behind_the_other(
    device: Gpu, run: Runner, tmp_path: Path, pooled: np.ndarray, dtype: str, most: float
) -> None:
    """Every activation and dtype. A quantised load leaves the modules plain. (The encoder's rows of 60 columns make
    no groups and stay plain too.)"""
    folder = repository(tmp_path, *(f"{i}_Dense" for i in range(2, 6)))
    layers = [
        dense(folder, "2_Dense", (WIDTH, 33), "activation.ReLU"),
        dense(folder, "3_Dense", (33, 128), "activation.SiLU", bias=False),
        dense(folder, "4_Dense", (128, 64), "linear.Identity", bias=False, dtype="BF16"),
        dense(folder, "5_Dense", (64, 48), "activation.Tanh", dtype="F16"),
    ]
    rows = pooled
    for layer in layers:
        rows = layer(rows)
    told = Told(run, device, folder, dtype=dtype, self_check=dtype == "f32")
    assert told.dimensions == 48 and told.notes == []
    assert nmse(told.rows, unit(rows)) <= most
    assert nmse(told.short, unit(rows[:1, :5])[0]) <= most
    assert told.checked is None or told.checked["wrong"] == []
    assert all(told.memory[kind] == nbytes for kind, nbytes in told.estimate.by_kind.items())


OUTSIDE = json.dumps([{"type": "Pooling", "path": "1_Pooling"}, {"type": "Dense", "path": "../x"}])


def spoilt(folder: Path, **values: Any) -> None:
    """Put other values into 2_Dense/config.json."""
    path = folder / "2_Dense" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def order(folder: Path, *kinds: str) -> None:
    modules = [
        {
            "type": f"sentence_transformers.models.{kind}",
            "path": "2_Dense" if kind == "Dense" else "1_Pooling",
        }
        for kind in kinds
    ]
    (folder / "modules.json").write_text(json.dumps(modules))


def extra(folder: Path) -> None:
    tensors = {"linear.weight": (3, WIDTH), "linear.bias": (3,), "linear.scale": (3,)}
    made = {k: Stored.of(np.ones(shape, np.float32), "F32") for k, shape in tensors.items()}
    write_tensors(folder / "2_Dense" / "model.safetensors", made)


@pytest.mark.parametrize(
    "spoil, kind, message",
    [
        (lambda f: shutil.rmtree(f / "2_Dense"), ModelError, "names 2_Dense, but 2_Dense/config.json is missing"),
        (lambda f: (f / "2_Dense" / "model.safetensors").unlink(), ModelError, "2_Dense has no model.safetensors"),
        (lambda f: spoilt(f, in_features=59), ModelError, "2_Dense/config.json: in_features is 59, but .* 60"),
        (lambda f: spoilt(f, in_features="60"), ModelError, "2_Dense/config.json: in_features is '60'"),
        (lambda f: spoilt(f, out_features=4), ModelError, r"2_Dense/linear.weight is \[3, 60\], expected \[4, 60\]"),
        (lambda f: spoilt(f, out_features=None), ModelError, "2_Dense/config.json: out_features is missing"),
        (lambda f: spoilt(f, activation_function="nn.Step"), ModelError, "config.json: activation_function is 'nn.S"),
        (lambda f: spoilt(f, bias=1), ModelError, "2_Dense/config.json: bias is 1"),
        (lambda f: spoilt(f, bias=False), ModelError, "2_Dense/linear.bias, which config.json does not ask for"),
        (lambda f: spoilt(f, module_input_name="token_embeddings"), ModelError, "config.json: module_input_name"),
        (extra, ModelError, "2_Dense/linear.scale"),
        (lambda f: order(f, "Transformer", "Dense", "Pooling"), ModelError, "'2_Dense', .* follows Transformer"),
        (lambda f: order(f, "Transformer", "Pooling", "Normalize", "Dense"), ModelError, "follows Normalize"),
        (lambda f: (f / "modules.json").write_text(OUTSIDE), FormatError, "not a file name inside"),
        (lambda f: (f / "2_Dense" / "config.json").write_text("[]"), FormatError, "2_Dense/config.json is not"),
        (lambda f: (f / "2_Dense" / "model.safetensors").write_bytes(b"x" * 40), FormatError, "2_Dense"),
    ],
)  # fmt: skip
def test_modules_that_are_refused(
    device: Gpu, run: Runner, tmp_path: Path, spoil: Any, kind: Any, message: str
) -> None:
    folder = repository(tmp_path, "2_Dense")
    dense(folder, "2_Dense", (WIDTH, 3), "linear.Identity")
    spoil(folder)
    for act in (Engine.estimate, Engine.load):
        with pytest.raises(kind, match=message):
            run(act(str(folder), gpu=device, dtype="f32"))
    assert device.counters.live_buffers == 0
