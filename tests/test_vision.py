"""Vision towers: tiny ones against transformers, both spellings of a checkpoint, when a tower is loaded, what it takes,
and what callers may give.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from py_engine.__main__ import main
from py_engine.cli.npy import read_npy, write_npy
from py_engine.encode import tower as towers
from py_engine.errors import InputError, ModelError
from py_engine.host.gpu import Gpu
from py_engine.serve.engine import Engine
from py_engine.serve.options import Progress
from py_engine.tasks.features import FeaturesRequest
from tests import reference
from tests.checkpoints import Checkpoint, Stored
from tests.conftest import Runner, software_adapter
from tests.reference import nmse

QWEN, LFM2, DINO = "qwen3.5-tower", "lfm2-vl-tower", "dinov2-tower"
NMSE_F16 = 1e-4


@pytest.fixture(scope="module")
def device(wgpu: Gpu) -> Gpu:
    return wgpu


@pytest.fixture(scope="module")
def engines(device: Gpu, run: Runner) -> Iterator[Callable[..., Engine]]:
    """Each checkpoint in each form, loaded once."""
    loaded: dict[tuple[str, str], Engine] = {}

    def load(name: str, dtype: str = "f32") -> Engine:
        if (name, dtype) not in loaded:
            path = str(reference.folder(name))
            check = dtype == "f32"
            loaded[name, dtype] = run(
                Engine.load(path, gpu=device, dtype=dtype, self_check=check, on_progress=_no_note)
            )
        return loaded[name, dtype]

    yield load
    for engine in loaded.values():
        run(engine.close())
    assert device.counters.live_buffers == 0


def _no_note(progress: Progress) -> None:
    assert progress.phase != "note", progress.message


def golden(name: str) -> Any:
    return np.load(reference.folder(name) / "tower.npz")


def seen(run: Runner, engine: Engine, patches: np.ndarray, grid: Any) -> np.ndarray:
    found = run(_ask(engine, FeaturesRequest(patches, grid=[int(n) for n in grid])))
    return np.asarray(found.features).reshape(found.rows, found.dimensions)


async def _ask(engine: Engine, request: FeaturesRequest) -> Any:
    return await engine.ask(request)


@pytest.mark.parametrize("dtype, most", [("f32", reference.NMSE_F32), ("f16", NMSE_F16)])
@pytest.mark.parametrize("name", [QWEN, LFM2, DINO])
def test_rows_are_those_of_transformers(
    engines: Callable[..., Engine], run: Runner, name: str, dtype: str, most: float
) -> None:
    """Pictures of several grids, one after another and the first once more: no picture sees another."""
    engine, wanted = engines(name, dtype), golden(name)
    if dtype == "f32":
        assert engine.info()["self_check"]["wrong"] == []
    for i in (0, 1, 2, 0):
        found = seen(run, engine, wanted[f"patches_{i}"], wanted[f"grid_{i}"])
        assert found.shape == wanted[f"rows_{i}"].shape
        assert nmse(found.ravel(), wanted[f"rows_{i}"].ravel()) <= most


def test_frames_over_several_passes(
    engines: Callable[..., Engine], run: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A video of more frames than a pass holds gives the rows of its frames."""
    engine, wanted = engines(QWEN), golden(QWEN)
    patches = np.concatenate([wanted["patches_2"][:8]] * 40 + [wanted["patches_2"][8:]])
    rows = np.concatenate([wanted["rows_2"][:2]] * 40 + [wanted["rows_2"][2:]])
    runner: Any = run(engine._loaded.vision.runner())  # type: ignore[union-attr]
    monkeypatch.setattr(runner.programs, "sizes", lambda _: (256,))
    assert nmse(seen(run, engine, patches, (41, 2, 4)).ravel(), rows.ravel()) <= reference.NMSE_F32


def mlx(path: Path) -> str:
    """The Qwen checkpoint as mlx_vlm names and lays it out."""
    made = Checkpoint.golden(QWEN)
    tensors = {}
    for name, stored in made.tensors.items():
        name = name.replace("model.visual.", "vision_tower.").replace(
            "model.language_model.", "language_model.model."
        )
        if name.endswith("patch_embed.proj.weight"):
            stored = Stored(stored.dtype, stored.array.transpose(0, 2, 3, 4, 1))
        tensors[name] = stored
    made.tensors = tensors
    return made.write(path)


def test_lazy_and_mlx(device: Gpu, run: Runner, tmp_path: Path) -> None:
    """mlx_vlm's names; the tower stays on the disk until the first picture. The estimate knows it before."""
    folder, wanted = mlx(tmp_path / "mlx"), golden(QWEN)
    told: list[Progress] = []
    before = device.counters.live_bytes
    estimate = run(Engine.estimate(folder, gpu=device, dtype="f32", vision="lazy"))
    engine = run(
        Engine.load(folder, gpu=device, dtype="f32", vision="lazy", on_progress=told.append)
    )
    assert engine.info()["vision"] == {"loaded": False}
    assert device.counters.live_bytes - before == estimate.loaded_bytes
    assert "vision_bytes" not in engine.info()["memory"]
    told.clear()
    for _ in range(2):
        found = seen(run, engine, wanted["patches_0"], wanted["grid_0"])
        assert nmse(found.ravel(), wanted["rows_0"].ravel()) <= reference.NMSE_F32
    assert engine.info()["vision"] == {"loaded": True}
    assert [p.phase for p in told].count("ready") == 1 and "weights" in {p.phase for p in told}
    vision: Any = engine._loaded.vision
    runner = run(vision.runner())
    run(runner.fill())
    run(engine._loaded.decoder.fill())
    memory = engine.info()["memory"]
    assert all(memory[kind] == nbytes for kind, nbytes in estimate.by_kind.items())
    assert device.counters.live_bytes - before == estimate.total_bytes <= estimate.peak_bytes
    run(engine.close())
    eager = run(Engine.estimate(folder, gpu=device, dtype="f32"))
    blind = run(Engine.estimate(folder, gpu=device, dtype="f32", vision="off"))
    assert eager.by_kind == estimate.by_kind
    assert eager.loaded_bytes > estimate.loaded_bytes == blind.loaded_bytes
    assert eager.by_kind.keys() - blind.by_kind.keys() == {"vision_weights_bytes", "vision_bytes"}


def test_the_largest_picture(engines: Callable[..., Engine], run: Runner) -> None:
    """64 x 64 patches take a plan that is made when they come; the next small picture is as before."""
    engine, wanted = engines(LFM2), golden(LFM2)
    patches = np.tile(wanted["patches_2"], (256, 1))
    assert seen(run, engine, patches, (1, 64, 64)).shape == (1024, 60)
    found = seen(run, engine, wanted["patches_0"], wanted["grid_0"])
    assert nmse(found.ravel(), wanted["rows_0"].ravel()) <= reference.NMSE_F32


@pytest.mark.parametrize(
    "name, grid, message",
    [
        (QWEN, [1, 3, 4], "multiples of 2"),
        (QWEN, [1, 0, 4], "0 x 4"),
        (QWEN, [1, 2], "frames, rows and columns"),
        (QWEN, "1,2,2", "frames, rows and columns"),
        (QWEN, [1, 2, True], "grid of 1 x 2 x 1"),
        (QWEN, [1, 66, 64], "at most 4096"),
        (QWEN, [1, 2, 4], "float32 numbers"),
        (DINO, [2, 2, 2], "one picture at a time"),
        (DINO, [1, 64, 64], "at most 4095"),
    ],
)
def test_bad_grids(
    engines: Callable[..., Engine], run: Runner, name: str, grid: Any, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        run(_ask(engines(name), FeaturesRequest(np.zeros(7, np.float32), grid=grid)))


@pytest.mark.parametrize("patches", ["abc", np.zeros(384 * 4), None, [1.0, "x"]])
def test_bad_patches(engines: Callable[..., Engine], run: Runner, patches: Any) -> None:
    with pytest.raises(InputError, match="patches"):
        run(_ask(engines(QWEN), FeaturesRequest(patches, grid=[1, 2, 2])))


def test_a_model_without_a_tower(device: Gpu, run: Runner) -> None:
    """Text alone, and a tower that was left out: the same answer."""
    for name, vision in (("qwen3-bf16", "auto"), (QWEN, "off")):
        path = str(reference.folder(name))
        engine = run(Engine.load(path, gpu=device, vision=vision, on_progress=_no_note))
        assert engine.info()["vision"] is None and "features" not in engine.tasks
        with pytest.raises(InputError, match="a vision tower"):
            run(_ask(engine, FeaturesRequest([0.0], grid=[1, 1, 1])))
        run(engine.close())


@pytest.mark.parametrize(
    "change, message",
    [
        ({"deepstack_visual_indexes": [1]}, "deepstack"),
        ({"out_hidden_size": 48}, "out_hidden_size"),
        ({"num_heads": 18}, "cannot turn"),
        ({"num_position_embeddings": 24}, "no square"),
        ({"depth": 1}, "blocks.1"),
        ({"depth": 3}, "missing"),
        ({"hidden_size": "36"}, "vision_config.hidden_size"),
    ],
)
def test_configs_that_do_not_fit(
    device: Gpu, run: Runner, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    folder = Path(mlx(tmp_path / "made"))
    config = json.loads((folder / "config.json").read_text())
    config["vision_config"] |= change
    (folder / "config.json").write_text(json.dumps(config))
    if change == {"depth": 1}:  # whole layers that the config does not name: a note
        told: list[Progress] = []
        engine = run(Engine.load(str(folder), gpu=device, on_progress=told.append))
        assert any(message in p.message for p in told if p.phase == "note")
        run(engine.close())
        return
    before = device.counters.live_buffers
    with pytest.raises(ModelError, match=message):
        run(Engine.load(str(folder), gpu=device))
    assert device.counters.live_buffers == before


def test_orders_of_patches() -> None:
    """By blocks of 2 x 2, as Qwen's pictures come; and row by row, put into blocks for the projector."""
    places = np.array(towers.places_of((2, 4), 2)).reshape(-1, 2).tolist()
    assert places == [[0, 0], [0, 1], [1, 0], [1, 1], [0, 2], [0, 3], [1, 2], [1, 3]]
    assert towers.order_of((2, 4), 2, False, 2).tolist() == [
        0, 1, 4, 5, 2, 3, 6, 7, 8, 9, 12, 13, 10, 11, 14, 15,
    ]  # fmt: skip
    assert towers.order_of((2, 4), 2, True, 1).tolist() == list(range(8))


def npy(path: Path, array: np.ndarray) -> str:
    np.save(path, array)
    return str(path)


def test_the_command(run: Runner, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`features`: from a file that NumPy wrote to one that it reads."""
    wanted, out = golden(LFM2), tmp_path / "rows.npy"
    file = npy(tmp_path / "patches.npy", wanted["patches_0"])
    grid = ",".join(map(str, wanted["grid_0"]))
    words = ["features", str(reference.folder(LFM2)), "--input", file, "--grid", grid]
    words += ["--out", str(out), "--dtype", "f32", "--host", "wgpu", "--json"]
    with software_adapter("wgpu"):
        assert main(words) == 0
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert told == {"out": str(out), "rows": 15, "dimensions": 60}
    found = np.load(out)
    assert found.dtype == np.float32 and found.shape == (15, 60)
    assert nmse(found.ravel(), wanted["rows_0"].ravel()) <= reference.NMSE_F32


def test_files_of_other_kinds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What is wrong with files and grids is said before anything is loaded."""
    good = np.zeros((4, 6), np.float32)
    raw = Path(npy(tmp_path / "good.npy", good)).read_bytes()
    (tmp_path / "cut.npy").write_bytes(raw[:-4])
    (tmp_path / "code.npy").write_bytes(raw.replace(b"{'descr'", b"print(1)"))
    (tmp_path / "text.npy").write_text("no numbers")
    cases = {
        "supported are float32": (npy(tmp_path / "f8.npy", good.astype(float)), "1,2,2"),
        "column-major": (npy(tmp_path / "f.npy", np.asfortranarray(good)), "1,2,2"),
        "of the 4 patches": (npy(tmp_path / "g.npy", good), "1,2,3"),
        "patches [n, k]": (npy(tmp_path / "flat.npy", good.ravel()), "1,2,2"),
        "bytes of numbers": (str(tmp_path / "cut.npy"), "1,2,2"),
        "header": (str(tmp_path / "code.npy"), "1,2,2"),
        "no .npy": (str(tmp_path / "text.npy"), "1,2,2"),
        "there is no such file": (str(tmp_path / "none.npy"), "1,2,2"),
        "like 1,16,16": (str(tmp_path / "good.npy"), "1,2"),
        "give uint8 pixels": (npy(tmp_path / "u1.npy", np.zeros((2, 2, 3, 1), np.uint8)), None),
    }
    for word, (file, grid) in cases.items():
        words = ["features", "/no/such/model", "--input", file, "--out", str(tmp_path / "o.npy")]
        words += ["--json"] + (["--grid", grid] if grid else [])
        assert main(words) == 1, word
        assert word in capsys.readouterr().out, word


def test_numbers_survive_a_file(tmp_path: Path) -> None:
    values = np.arange(12, dtype=np.float32).reshape(3, 4)
    write_npy(tmp_path / "a.npy", memoryview(values.tobytes()).cast("f"), (3, 4))
    assert (np.load(tmp_path / "a.npy") == values).all()
    back = read_npy(str(tmp_path / "a.npy"), "--input")
    assert back.shape == (3, 4) and back.data.cast("f").tolist() == list(range(12))
