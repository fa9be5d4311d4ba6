"""What families can ask the store for beside plain layers: rows of any rank, rows that stay plain, tables, weight
norm, sets of files beside the checkpoint's, tensors that parts share. A toy family in a folder of its own asks for
them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from py_engine import models
from py_engine.errors import FormatError, ModelError
from py_engine.graph.matrix import Linear
from py_engine.graph.trace import Tensor
from py_engine.host.gpu import Gpu
from py_engine.serve.device import Device
from py_engine.serve.engine import Engine
from py_engine.serve.options import Progress
from py_engine.weights.formats import StorageForm
from py_engine.weights.store import WeightStore
from tests.checkpoints import Checkpoint, Stored, quantise, write_tensors
from tests.conftest import Runner
from tests.hub_loads import FaultIo
from tests.hub_server import COMMIT, HubServer, hub_server
from tests.ops.matrices import from_bf16
from tests.weight_loads import Filled, fill

# Qwen2 with all kinds of other parts, as towers of images and sounds have them.
FAMILY = '''
"""Qwen2 with more weights."""

from py_engine.models.qwen2 import build as qwen2

SETS = ("extra", "voices/alba.safetensors", "voices/short.safetensors")


def parts(store):
    """By name; whoever asks again gets the same."""
    return {
        "patches": store.linear(["patch"], [8], 96, axes=(3, 2, 4, 4), bias=True, plain=True),
        "words": store.linear(["patch_words"], [8], 96),
        "taps first": store.linear(["conv"], [6], 30, axes=(10, 3), channels_last=True, bias=True),
        "old norm": store.linear(["old"], [70], 24, axes=(8, 3), channels_last=True),
        "new norm": store.linear(["new"], [5], 7, axes=(7,)),
        "stacked": store.linear(["a", "b"], [3, 5], 64, plain=True),
        "second slice": store.slices("sliced", 2, 5, 64)[1],
        "positions": store.table("positions", (5, 3, 2)),
        "halves": store.table("positions", (5, 3, 2), "f16"),
        "as stored": store.table("stored", (3, 5), "stored"),
        "extra": store.linear(["extra/linear"], [4], 64),
        "voice": store.table("voices/alba/style", (90, 1, 3)),
        "short voice": store.table("voices/short/style", (7, 1, 3)),
    }


def build(config, store):
    model = qwen2(config, store)
    parts(store)
    assert store.linear(["proj_out" if store.has("proj_out.weight") else "patch_words"], [8], 96)
    return model
'''


def values(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def norm(v: np.ndarray, g: np.ndarray) -> np.ndarray:
    """torch's weight_norm with dim=0, in float64. A row of zeros stays zero."""
    lengths = np.sqrt((v.astype(np.float64) ** 2).sum(tuple(range(1, v.ndim)), keepdims=True))
    return np.asarray(g * v / np.where(lengths == 0, 1, lengths))


def channels_last(w: np.ndarray) -> np.ndarray:
    return np.moveaxis(w, 1, -1)


def toy_tensors(dtype: str) -> dict[str, Stored]:
    """Tensors of the main file. Directions come before their lengths, which no writer does."""
    given = {
        "patch.weight": values(1, 8, 3, 2, 4, 4), "patch.bias": values(2, 8),
        "patch_words.weight": values(3, 8, 96),
        "conv.weight": values(4, 6, 10, 3), "conv.bias": values(5, 6),
        "old.weight_v": values(6, 70, 8, 3), "old.weight_g": values(7, 70, 1, 1),
        "new.parametrizations.weight.original1": values(8, 5, 7),
        "new.parametrizations.weight.original0": values(9, 5, 1),
        "a.weight": values(10, 3, 64), "b.weight": values(11, 5, 64),
        "positions": values(12, 5, 3, 2), "stored": values(13, 3, 5), "sliced.weight": values(14, 10, 64),
    }  # fmt: skip
    given["old.weight_v"][3] = 0
    return {name: Stored.of(array, dtype) for name, array in given.items()}


SETS = {
    "extra/model.safetensors": {"linear.weight": Stored.of(values(20, 4, 64), "F32")},
    "voices/alba.safetensors": {"style": Stored.of(values(21, 90, 1, 3), "F16")},
    # So short that the read of its header reads all of it.
    "voices/short.safetensors": {"style": Stored.of(values(22, 7, 1, 3), "F16")},
}


def write(
    folder: Path, dtype: str = "F32", change: Callable[[dict[str, Stored]], None] = lambda _: None
) -> Path:
    """A checkpoint of the toy family."""
    made = Checkpoint.golden("qwen2-f32")
    made.config["model_type"] = "toy"
    made.tensors |= toy_tensors(dtype)
    change(made.tensors)
    made.write(folder)
    for file, tensors in SETS.items():
        (folder / file).parent.mkdir(exist_ok=True)
        write_tensors(folder / file, tensors)
    return folder


def wanted(dtype: str) -> dict[str, np.ndarray]:
    """The correct parts in float64, before they are rounded to the form that stores them."""
    t = {name: stored.values for name, stored in toy_tensors(dtype).items()}
    return {
        "patches": t["patch.weight"].reshape(8, 96),
        "words": t["patch_words.weight"],
        "taps first": channels_last(t["conv.weight"]).reshape(6, 30),
        "old norm": channels_last(norm(t["old.weight_v"], t["old.weight_g"])).reshape(70, 24),
        "new norm": norm(*(t[f"new.parametrizations.weight.original{i}"] for i in (1, 0))),
        "stacked": np.concatenate([t["a.weight"], t["b.weight"]]),
        "second slice": t["sliced.weight"][5:],
        "positions": t["positions"],
        "halves": t["positions"],
        "as stored": t["stored"],
        "extra": SETS["extra/model.safetensors"]["linear.weight"].values,
        "voice": SETS["voices/alba.safetensors"]["style"].values,
        "short voice": SETS["voices/short.safetensors"]["style"].values,
    }


@pytest.fixture(autouse=True)
def toy(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The family's file, beside those of the engine."""
    import importlib
    import sys

    folder = tmp_path_factory.mktemp("families")
    (folder / "toy.py").write_text(FAMILY)
    monkeypatch.setattr(models, "__path__", [*models.__path__, str(folder)])
    models._files.cache_clear()
    models.families.cache_clear()
    yield importlib.import_module("py_engine.models.toy")
    models._files.cache_clear()
    models.families.cache_clear()
    sys.modules.pop("py_engine.models.toy", None)


@pytest.fixture(scope="module")
def gpu(wgpu: Gpu) -> Gpu:
    return wgpu


async def contents(gpu: Gpu, part: Linear | Tensor) -> tuple[str, np.ndarray]:
    """(how a part is stored, its numbers)."""
    if isinstance(part, Tensor):
        kind, buffer, shape = str(part.dtype), part.buffer, part.shape
    else:
        (matrix,) = part.parts
        kind, buffer, shape = matrix.format, matrix.weight.buffer, (matrix.rows, matrix.cols)
        if kind in ("q4", "q8"):
            return kind, np.zeros(shape)
    raw = await gpu.read(buffer)
    array = np.frombuffer(raw, {"f32": "<f4", "f16": "<f2", "bf16": "<u2"}[kind])
    array = array[: int(np.prod(shape))].reshape(shape)
    return kind, from_bf16(array) if kind == "bf16" else array.astype(np.float64)


# In every load: rows with an odd number of halves, and parts that were asked for in a dtype.
ALWAYS = {
    "new norm": "f32",
    "positions": "f32",
    "voice": "f32",
    "short voice": "f32",
    "halves": "f16",
}
STEP = {
    "f32": 2.0**-21,
    "f16": 2.0**-10,
    "bf16": 2.0**-7,
}  # for weights that are computed; others are equal


@pytest.mark.parametrize(
    ("dtype", "form", "kinds"),
    [
        ("F32", "f32", {"": "f32", **ALWAYS}),
        ("F32", "f16", {"": "f16", "as stored": "f32", **ALWAYS}),
        ("BF16", "f32", {"": "bf16", "extra": "f32", **ALWAYS}),
        ("F16", "q4", {"": "f16", "words": "q4", "extra": "q4", "second slice": "q4", **ALWAYS}),
    ],
)  # fmt: skip
def test_every_kind_of_part(
    gpu: Gpu, run: Runner, tmp_path: Path, toy: Any, dtype: str, form: str, kinds: Mapping[str, str]
) -> None:
    """Parts loaded by Device and Engine, against NumPy. The estimate is what the load takes."""
    folder = write(tmp_path / "m", dtype)
    notes = []

    def note(progress: Progress) -> None:
        if progress.phase == "note":
            notes.append(progress.message)

    async def work() -> None:
        device = Device(gpu, recovers=False)
        engine = await device.load(
            str(folder), dtype=form, context=64, on_progress=note, self_check=False
        )
        estimate = await Engine.estimate(str(folder), gpu=gpu, dtype=form, context=64)
        store = engine._loaded.store
        assert estimate.by_kind["weights_bytes"] == store.nbytes
        jobs = len(store.jobs)
        found = toy.parts(store)
        assert len(store.jobs) == jobs, "nothing was asked for anew"
        for name, exact in wanted(dtype).items():
            kind, got = await contents(gpu, found[name])
            assert kind == kinds.get(name, kinds[""]), name
            if kind in ("q4", "q8"):
                continue
            if "norm" in name:
                smallest = 6e-8 if kind == "f16" else 0
                assert (np.abs(got - exact) <= np.abs(exact) * STEP[kind] + smallest).all(), name
            else:
                rounded = exact.astype(np.float16) if kind == "f16" else exact
                assert (got == rounded).all(), name
        assert (await engine.generate([1, 2], max_tokens=2, temperature=0, ignore_eos=True)).tokens
        await device.close()

    run(work())
    assert notes == [] and gpu.counters.live_buffers == 0


def one_store(gpu: Gpu, tensors: Mapping[str, Stored], form: StorageForm = "stored") -> WeightStore:
    """A store of tensors that are in no file: the test reads nothing."""
    from py_engine.sources.jobs import TensorInfo

    infos, at = {}, 0
    for name, stored in tensors.items():
        size = stored.array.nbytes
        infos[name] = TensorInfo(name, stored.dtype, stored.array.shape, "f", at, at + size)
        at += size
    return WeightStore(gpu, infos, lambda _: None, form=form, family="toy")


def test_what_is_asked_for_twice_is_there_once(gpu: Gpu) -> None:
    """Tied heads, shared layers, tables: each has one buffer and one upload and is counted once, with a bias or
    without."""
    shapes = {"embed.weight": (8, 64), "up.weight": (4, 64), "up.bias": (4,), "norm": (64,)}
    store = one_store(gpu, {n: Stored.of(values(1, *s), "F32") for n, s in shapes.items()}, "q4")

    def ask() -> list[Any]:
        return [
            store.linear(["embed"], [8], 64).parts, store.linear(["embed"], [8], 64, plain=False).parts,
            store.linear(["up"], [4], 64, bias=True).parts, store.linear(["up"], [4], 64).parts,
            store.linear(["up"], [4], 64, bias=True).bias, store.vector("up.bias", 4),
            store.vector("norm", 64), store.vectors({"norm": [(64,), (1, 64)]}).binding,
            store.table("norm", (64,)).binding, store.table("norm", (64,), "f16"),
        ]  # fmt: skip

    first = ask()
    nbytes, jobs = store.nbytes, len(store.jobs)
    for again in (ask(), ask()):
        assert all(a == b or a is b for a, b in zip(first, again, strict=True))
    assert (store.nbytes, len(store.jobs)) == (nbytes, jobs)
    assert first[0] is first[1] and first[2] is first[3] and first[4] is first[5]
    assert first[8] == first[6].binding
    # The same tensor in another form is another matrix.
    assert store.linear(["embed"], [8], 64, plain=True).parts is not first[0]
    assert store.unused() == []
    store.release()
    assert gpu.counters.live_buffers == 0 and store.nbytes == 0


def shaped(**shapes: tuple[int, ...]) -> Mapping[str, Stored]:
    """Tensors of these shapes; `__` in a name stands for a dot."""
    return {name.replace("__", "."): Stored.of(values(1, *s), "F32") for name, s in shapes.items()}


def conv(store: WeightStore) -> Linear:
    return store.linear(["c"], [4], 6, axes=(2, 3))


@pytest.mark.parametrize(
    ("tensors", "ask", "message"),
    [
        (shaped(c__weight=(4, 3, 2)), conv, r"c.weight is \[4, 3, 2\], expected \[4, 2, 3\]"),
        (shaped(c__weight=(4, 6)), conv, r"is \[4, 6\], expected \[4, 2, 3\]"),
        (shaped(c__weight=(4, 2, 3)), lambda s: s.linear(["c"], [4], 6), r"is \[4, 2, 3\], expected \[4, 6\]"),
        (shaped(t=(4, 6)), lambda s: s.table("t", (4, 2, 3)), r"t is \[4, 6\], expected \[4, 2, 3\]"),
        (shaped(t=(4, 6)), lambda s: (s.table("t", (4, 6)), s.table("t", (24,))), r"t is \[4, 6\], expected \[24\]"),
        (shaped(), lambda s: s.table("t", (4,)), "'t' is missing"),
        ({"t": Stored("U32", np.zeros(4, np.uint32))}, lambda s: s.table("t", (4,)), "t has dtype U32"),
        (shaped(c__weight_v=(4, 2, 3)), conv, "'c.weight_g' is missing"),
        (shaped(c__weight_g=(4, 1, 1)), conv, "'c.weight' is missing"),
        (shaped(c__weight_v=(4, 2, 3), c__weight_g=(1, 2, 1)), conv,
         r"c.weight_g is \[1, 2, 1\], expected \[4, 1, 1\] .*dim=0"),
        (shaped(c__weight_v=(4, 2, 3), c__weight_g=()), conv, r"c.weight_g is \[\], .*dim=0"),
        (shaped(c__weight_v=(4, 2, 3), c__weight_g=(4, 1, 1)), lambda s: s.linear(["c"], [4], 6), r"c.weight_v is"),
        (shaped(c__weight_v=(1, 65537), c__weight_g=(1, 1)), lambda s: s.linear(["c"], [1], 65537), "more than 65536"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_named(gpu: Gpu, tensors: Any, ask: Any, message: str) -> None:
    store = one_store(gpu, tensors)
    with pytest.raises(ModelError, match=f"toy: .*{message}"):
        ask(store)
    store.release()


def test_axes_that_are_not_the_columns_are_a_mistake_of_the_family(gpu: Gpu) -> None:
    store = one_store(gpu, shaped(c__weight=(4, 3, 2)))
    with pytest.raises(ValueError, match="not 7 columns"):
        store.linear(["c"], [4], 7, axes=(3, 2))


def test_quantised_kernels_cannot_change_their_order(gpu: Gpu) -> None:
    from py_engine.weights.formats import Quantization

    store = one_store(gpu, shaped(c__weight=(4, 64)))
    store._quantization = lambda _: Quantization(4, 64)
    with pytest.raises(ModelError, match="c is quantised, but the order"):
        store.linear(["c"], [4], 64, axes=(32, 2), channels_last=True)


def test_what_is_left_of_weight_norm_is_accounted_for(gpu: Gpu) -> None:
    for pair in (
        ("weight_g", "weight_v"),
        tuple(f"parametrizations.weight.original{i}" for i in (0, 1)),
    ):
        made = {f"c.{pair[0]}": (4, 1), f"c.{pair[1]}": (4, 6), "c.bias": (4,), "d.bias": (4,)}
        store = one_store(gpu, {n: Stored.of(values(1, *s), "F32") for n, s in made.items()})
        store.linear(["c"], [4], 6)
        assert store.unused() == ["c.bias", "d.bias"] and store.uses("c") and not store.uses("d")
        store.release()
        store = one_store(gpu, {n: Stored.of(values(1, *s), "F32") for n, s in made.items()})
        store.leave("c")
        assert store.unused() == ["c.bias", "d.bias"]


def change_of(name: str, value: Stored | None) -> Callable[[Path], None]:
    """Write the toy's main file with this tensor changed; None removes it."""

    def change(folder: Path) -> None:
        from tests.checkpoints import read_tensors

        tensors = read_tensors(folder / "model.safetensors")
        tensors.pop(name, None)
        write_tensors(
            folder / "model.safetensors", tensors if value is None else {**tensors, name: value}
        )

    return change


@pytest.mark.parametrize(
    ("spoil", "kind", "message"),
    [
        (lambda f: (f / "extra" / "model.safetensors").unlink(), ModelError, "extra has no model.safetensors"),
        (lambda f: (f / "voices" / "alba.safetensors").unlink(), Exception, "voices/alba.safetensors"),
        (change_of("extra/linear.weight", Stored.of(values(1, 4, 64), "F32")), FormatError,
         "'extra/linear.weight' is in model.safetensors and in extra/model.safetensors"),
        (change_of("old.bias", Stored.of(values(1, 70), "F32")), ModelError, "old.bias, which config.json does"),
        (change_of("new.bias", Stored.of(values(1, 5), "F32")), ModelError, "new.bias, which config.json does"),
    ],
)  # fmt: skip
def test_sets_and_tensors_that_are_refused(
    gpu: Gpu, run: Runner, tmp_path: Path, spoil: Any, kind: Any, message: str
) -> None:
    folder = write(tmp_path / "m")
    spoil(folder)
    for act in (Engine.estimate, Engine.load):
        with pytest.raises(kind, match=message):
            run(act(str(folder), gpu=gpu, context=64))
    assert gpu.counters.live_buffers == 0


def test_what_nobody_reads_of_a_set_is_told(gpu: Gpu, run: Runner, tmp_path: Path) -> None:
    folder = write(tmp_path / "m")
    more = {**SETS["extra/model.safetensors"], "other.weight": Stored.of(values(1, 2), "F32")}
    # The model is in shards, and no file holds all of it.
    (folder / "extra" / "model.safetensors").unlink()
    for i, (name, stored) in enumerate(more.items()):
        write_tensors(folder / "extra" / f"model-{i}.safetensors", {name: stored})
    index = {name: f"model-{i}.safetensors" for i, name in enumerate(more)}
    (folder / "extra" / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": index})
    )
    notes = []

    async def work() -> None:
        told = lambda p: notes.append(p.message) if p.phase == "note" else None  # noqa: E731
        async with await Engine.load(
            str(folder), gpu=gpu, context=64, on_progress=told, self_check=False
        ):
            pass

    run(work())
    assert notes == ["The weights hold tensors that this model does not read: extra/other.weight."]


# -- kept on the device ------------------------------------------------------------------------------------------------


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    (tmp_path / "root" / "org").mkdir(parents=True)
    write(tmp_path / "root" / "org" / "toy")
    monkeypatch.setattr("os.fsync", lambda _: None)
    monkeypatch.setattr("os.fdatasync", lambda _: None)
    with hub_server(tmp_path / "root") as running:
        monkeypatch.setenv("HF_ENDPOINT", running.url)
        yield running


@pytest.mark.parametrize("alone", [True, False], ids=["alone", "shared"])
@pytest.mark.parametrize("form", ["stored", "q4"])
def test_sets_are_kept_and_mended(
    gpu: Gpu,
    run: Runner,
    server: HubServer,
    stores: Path,
    form: StorageForm,
    alone: bool,
) -> None:
    """The second load asks the hub for nothing. Damaged bytes are named and fetched again, with everything that was
    computed from them: for damaged lengths, the rows."""

    def load(address: str = f"org/toy@{COMMIT}") -> Filled:
        made: Filled = run(fill(gpu, address, form, FaultIo(shared=not alone)))
        return made

    passes = form == "q4" and alone
    undisturbed = load(str(server.root / "org" / "toy")).contents
    cold = load()
    assert cold.contents == undisturbed and cold.kept and cold.notes == []
    server.requests.clear()
    warm = load()
    assert warm.contents == undisturbed and warm.notes == [] and server.requests == []
    damaged = {
        "old.weight_g": toy_tensors("F32")["old.weight_g"].array,
        "old.weight_v": toy_tensors("F32")["old.weight_v"].array,
        "voices/alba/style": SETS["voices/alba.safetensors"]["style"].array,
        "voices/short.safetensors": SETS["voices/short.safetensors"]["style"].array,
    }
    for name, array in damaged.items():
        spoil(stores, array.tobytes())
        again = load()
        assert again.contents == undisturbed, name
        assert any(note.startswith(f"{name} ") for note in again.notes), again.notes
        assert server.requests, "the damaged bytes were fetched again"
        server.requests.clear()
        mended = load()
        assert mended.contents == undisturbed and mended.notes == []
        # A file that passes by is kept up to its first tensor; a short header is read with what follows it.
        asked = [r for r in server.requests if not (passes and r.range == "bytes=82-511")]
        assert asked == [] if passes else server.requests == []


def spoil(stores: Path, body: bytes) -> None:
    """Flip a bit of this tensor in every file of the store that holds it."""
    found = 0
    for path in sorted(stores.rglob("*")):
        if not path.is_file() or path.is_symlink():
            continue
        data = path.read_bytes()
        at = data.find(body)
        if at >= 0:
            path.write_bytes(data[: at + 4] + bytes([data[at + 4] ^ 1]) + data[at + 5 :])
            found += 1
    assert found


def test_a_voice_is_quantised_nowhere(gpu: Gpu) -> None:
    """mlx's rule is for layers. Tables keep every bit in any form."""
    store = one_store(gpu, shaped(t=(4, 64), w__weight=(4, 64)), "q4")
    assert store.table("t", (4, 64)).nbytes == 4 * 4 * 64
    fields, _, _ = quantise(values(1, 4, 64), 4, 64)
    assert store.linear(["w"], [4], 64).parts[0].weight.nbytes == fields.size // 2
    assert {job.tensor.name: job.kind for job in store.jobs} == {"t": "f32", "w.weight": "quantise"}
    store.release()
