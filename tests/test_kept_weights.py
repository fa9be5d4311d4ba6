"""Weights from the store to a GPU: read once, uploaded once, checksummed on the GPU, repaired where they are
damaged.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from py_engine.host.gpu import Gpu
from py_engine.serve.engine import Engine
from py_engine.serve.options import Progress
from tests import reference
from tests.conftest import Runner
from tests.hub_server import COMMIT, HubServer, hub_server
from tests.ops.test_checksum import reference as sum_of
from tests.weight_loads import fill

FILE = "model.safetensors"
# Together they cover copies, conversions, pairs of scale and bias, repacked fields, a tied head, and unused tensors.
CHECKPOINTS = ("qwen3-mlx-mixed-untied", "qwen2-f32", "qwen3.5-mlx-mixed-vision")


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """A hub with the checkpoints as org/NAME."""
    for name in CHECKPOINTS:
        shutil.copytree(reference.folder(name), tmp_path / "root" / "org" / name)
    with hub_server(tmp_path / "root") as running:
        monkeypatch.setenv("HF_ENDPOINT", running.url)
        monkeypatch.delenv("HF_TOKEN", raising=False)
        yield running


def blob(stores: Path, name: str) -> Path:
    folder = stores / "hub" / f"models--org--{name}"
    return max((folder / "blobs").iterdir(), key=lambda p: p.stat().st_size)


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_warm_equals_cold_and_reads_and_uploads_once(
    gpu: Gpu, run: Runner, server: HubServer, name: str
) -> None:
    address = f"org/{name}@{COMMIT}"
    cold = run(fill(gpu, address))
    server.requests.clear()
    live = gpu.counters.live_buffers
    warm = run(fill(gpu, address))
    assert server.requests == [] and warm.notes == cold.notes == []
    assert warm.contents == cold.contents and gpu.counters.live_buffers == live
    store = warm.io.store
    assert store is not None
    size = (server.root / "org" / name / FILE).stat().st_size
    read = max(store.read_bytes.values())
    assert warm.job_bytes <= read <= size, "every byte is read once"
    table = 2 * 16 * len(warm.tensors)  # the checksum table, 16 bytes a part
    assert warm.job_bytes <= warm.uploaded <= warm.job_bytes + table + 64


def test_stored_sums_are_those_of_the_file(
    gpu: Gpu, run: Runner, server: HubServer, stores: Path
) -> None:
    from py_engine.kept.manifest import Manifest

    name = CHECKPOINTS[0]
    made = run(fill(gpu, f"org/{name}"))
    body = (server.root / "org" / name / FILE).read_bytes()
    index = stores / "hub" / f"models--org--{name}" / "jerboa" / f"{COMMIT}.json"
    found = Manifest.from_index(index.read_bytes())
    assert found is not None and set(found.sums) == set(made.tensors)
    for tensor, info in made.tensors.items():
        data = body[info.start : info.end]
        words = np.frombuffer(data + bytes(-len(data) % 4), np.uint32)
        assert found.sums[tensor].value == sum_of(words), tensor


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_a_flipped_bit_in_any_tensor_is_repaired(
    gpu: Gpu, run: Runner, server: HubServer, stores: Path, name: str
) -> None:
    """Three loads, each with every third tensor damaged: each damaged tensor is named, and only its bytes are
    fetched."""
    address = f"org/{name}"
    cold = run(fill(gpu, address))
    file, whole = blob(stores, name), blob(stores, name).read_bytes()
    index = stores / "hub" / f"models--org--{name}" / "jerboa" / f"{COMMIT}.json"
    from py_engine.kept.manifest import Manifest

    found = Manifest.from_index(index.read_bytes())
    assert found is not None
    for third in range(3):
        hit = sorted(found.sums)[third::3]
        damaged = bytearray(whole)
        for tensor in hit:
            info = cold.tensors[tensor]
            damaged[info.start + (info.end - info.start) * third // 3] ^= 0x10
        file.write_bytes(damaged)
        server.requests.clear()
        warm = run(fill(gpu, address))
        assert warm.contents == cold.contents
        said = [note for note in warm.notes if "was damaged" in note]
        assert sorted(note.split()[0] for note in said) == sorted(hit)
        assert file.read_bytes() == whole
    assert run(fill(gpu, address)).notes == []


def test_an_engine_answers_alike_from_the_store(
    open_software_gpu: Callable[..., Gpu], run: Runner, server: HubServer, stores: Path
) -> None:
    gpu = open_software_gpu("wgpu")
    name = CHECKPOINTS[0]
    ids = [1, 5, 9, 2]

    def tokens(**options: Any) -> list[int]:
        async def go() -> list[int]:
            async with await Engine.load(f"org/{name}", gpu=gpu, context=64, **options) as engine:
                assert engine.info()["memory"]["peak_transient_bytes"] <= 64 << 20
                return await engine.generate_ids(ids, max_tokens=8, ignore_eos=True)

        found: list[int] = run(go())
        return found

    cold = tokens()
    file = blob(stores, name)
    body = bytearray(file.read_bytes())
    body[len(body) // 2] ^= 1
    file.write_bytes(body)
    seen: list[Progress] = []
    assert tokens(on_progress=seen.append) == cold
    assert ["was damaged" in p.message for p in seen if p.phase == "note"] == [True]
    server.close()
    assert tokens() == cold, "with the hub gone"
