"""Weights that are quantised while loading are stored in that form. The next load reads and uploads them, and quantises
again only what is damaged or missing. `alone`: the store belongs to the engine alone, as in a browser; otherwise it is
the hub cache of CPython.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import pytest

from py_engine.__main__ import main
from py_engine.diagnostics.load_bench import bench_load
from py_engine.errors import HubError, StorageError, StorageFullError
from py_engine.host.gpu import Buffer, Gpu
from py_engine.kept.library import Library
from py_engine.kept.manifest import Manifest
from py_engine.ops import layout
from py_engine.sources import derived, safetensors
from py_engine.weights import loader
from py_engine.weights.formats import StorageForm
from tests import hub_server as hub_module
from tests.checkpoints import (
    Checkpoint,
    Stored,
    dequantise,
    is_matrix,
    pack,
    quantise,
    write_tensors,
)
from tests.conftest import Runner
from tests.hub_loads import FaultIo, Killed
from tests.hub_server import COMMIT, HubServer, hub_server
from tests.weight_loads import Filled, fill

# Together they cover both float types, tied and untied heads, biases, stacked layers, one file and two, and layers of
# 90 and 60 columns, which stay plain.
MODELS = ("bf16", "f32", "sharded", "some")
SLICE = 32 << 10
KEPT = pytest.mark.parametrize("alone", [True, False], ids=["alone", "shared"])
FORMS: tuple[StorageForm, ...] = ("q4", "q8")


@pytest.fixture(scope="module")
def gpu(wgpu: Gpu) -> Gpu:
    """One host is enough: tests/ops/test_layout.py and test_checksum.py test the kernels on both."""
    return wgpu


@pytest.fixture(scope="module")
def repositories(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The models as ROOT/org/NAME."""
    root = tmp_path_factory.mktemp("models")
    (root / "org").mkdir()
    bf16 = dequantise(Checkpoint.golden("qwen2-mlx4-g64"), "BF16")
    bf16.write(root / "org" / "bf16")
    small = dequantise(Checkpoint.golden("qwen2-mlx4-g64"), "BF16")
    small.keep_layers(0)
    small.write(root / "org" / "small")
    f32 = dequantise(Checkpoint.golden("qwen3-mlx4-g32-untied-f32"), "F32")
    f32.write(root / "org" / "f32")
    Checkpoint.golden("qwen3.5-bf16").write(root / "org" / "some")
    folder = root / "org" / "sharded"
    bf16.write(folder)
    (folder / "model.safetensors").unlink()
    names = list(bf16.tensors)
    weight_map: dict[str, str] = {}
    for i, part in enumerate((names[: len(names) // 2], names[len(names) // 2 :])):
        file = f"model-{i}.safetensors"
        write_tensors(folder / file, {name: bf16.tensors[name] for name in part})
        weight_map |= dict.fromkeys(part, file)
    (folder / safetensors.INDEX).write_text(json.dumps({"weight_map": weight_map}))
    return root


@pytest.fixture
def server(
    repositories: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[HubServer]:
    """A hub with copies of them. Slices and first reads are as small, relative to these files, as real ones are to real
    files."""
    root = tmp_path / "root"
    shutil.copytree(repositories, root)
    monkeypatch.setattr(loader, "cut", partial(loader.cut, most=SLICE))
    monkeypatch.setattr(safetensors, "FIRST_READ_BYTES", 512)
    monkeypatch.setattr("os.fsync", lambda _: None)  # these tests kill processes, not machines
    monkeypatch.setattr("os.fdatasync", lambda _: None)
    with hub_server(root) as running:
        monkeypatch.setenv("HF_ENDPOINT", running.url)
        monkeypatch.delenv("HF_TOKEN", raising=False)
        yield running


Fill = Callable[..., Filled]


@pytest.fixture
def load(gpu: Gpu, run: Runner) -> Fill:
    """`load(name, form, alone, before)` loads once, from a commit unless `name` says otherwise."""

    def one(
        name: str,
        form: StorageForm = "q4",
        alone: bool = True,
        before: Callable[[int, str, str], None] = lambda *_: None,
        **options: Any,
    ) -> Filled:
        address = name if "@" in name or "/" in name else f"org/{name}@{COMMIT}"
        io = options.pop("io", None) or FaultIo(before, shared=not alone)
        made: Filled = run(fill(gpu, address, form, io, **options))
        return made

    return one


@pytest.fixture
def undisturbed(load: Fill, repositories: Path) -> Callable[..., list[bytes]]:
    """The contents of the GPU buffers after a load that stores nothing."""
    known: dict[tuple[str, str], list[bytes]] = {}

    def contents(name: str, form: StorageForm = "q4") -> list[bytes]:
        key = (name, form)
        if key not in known:
            known[key] = load(str(repositories / "org" / name), form).contents
        return known[key]

    return contents


@pytest.fixture
def quantised(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the quantised tensors."""
    seen: list[str] = []
    real = layout.quantise

    def counted(*given: Any) -> None:
        seen.append(given[3].name)
        real(*given)

    monkeypatch.setattr(layout, "quantise", counted)
    return seen


def asked(server: HubServer) -> int:
    """How many bytes of weights the file host was asked for."""
    total = 0
    for request in server.requests:
        if request.port == "cdn" and request.path.endswith(".safetensors") and request.range:
            start, end = re.fullmatch(r"bytes=(\d+)-(\d+)", request.range).groups()  # type: ignore[union-attr]
            total += int(end) + 1 - int(start)
    return total


def folder(stores: Path, name: str) -> Path:
    return stores / "hub" / f"models--org--{name}"


def derived_files(stores: Path, name: str) -> list[Path]:
    return sorted((folder(stores, name) / "jerboa" / "derived").glob("*"))


def weight_files(server: HubServer, name: str) -> list[Path]:
    return sorted((server.root / "org" / name).glob("*.safetensors"))


def raw_bytes(server: HubServer, name: str) -> int:
    return sum(path.stat().st_size for path in weight_files(server, name))


def header_bytes(server: HubServer, name: str) -> int:
    return sum(8 + int.from_bytes(p.read_bytes()[:8], "little") for p in weight_files(server, name))


def index(stores: Path, name: str) -> Manifest:
    found = Manifest.from_index((folder(stores, name) / "jerboa" / f"{COMMIT}.json").read_bytes())
    assert found is not None
    return found


def stored(io: FaultIo, name: str, run: Runner) -> Manifest | None:
    """What the store reports."""

    async def go() -> Manifest | None:
        library = Library(await io.open_store("models"), io)
        found, _ = await library.load(f"org/{name}", COMMIT)
        if found is not None:
            await library.settle(found)
        return found

    found: Manifest | None = run(go())
    return found


def quantised_bytes(model: Checkpoint, bits: int) -> int:
    """Bytes of a plain model in that form; small tensors stay as they are."""
    total = 0
    for name, tensor in model.tensors.items():
        cols = tensor.array.shape[-1]
        if not is_matrix(name, tensor) or cols % 32:
            total += tensor.array.nbytes
            continue
        group = 64 if cols % 64 == 0 else 32
        pair = 8 if tensor.dtype == "F32" else 4
        total += tensor.array.size * bits // 8 + tensor.array.size // group * pair
    return total


# -- warm and cold -----------------------------------------------------------------------------------------------------


@KEPT
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", MODELS)
def test_the_second_load_neither_asks_nor_quantises(
    load: Fill,
    undisturbed: Callable[..., list[bytes]],
    server: HubServer,
    stores: Path,
    quantised: list[str],
    name: str,
    form: StorageForm,
    alone: bool,
) -> None:
    cold = load(name, form, alone)
    size, header = raw_bytes(server, name), header_bytes(server, name)
    assert cold.contents == undisturbed(name, form) and cold.notes == [] and cold.kept
    assert quantised and asked(server) == size and cold.read == cold.total == cold.job_bytes
    (file,) = derived_files(stores, name)
    kept = file.stat().st_size
    if name in ("bf16", "f32"):
        model = Checkpoint.golden(
            "qwen2-mlx4-g64" if name == "bf16" else "qwen3-mlx4-g32-untied-f32"
        )
        plain = dequantise(model, name.upper())
        assert kept == quantised_bytes(plain, int(form[1]))
    blobs = sum(p.stat().st_size for p in (folder(stores, name) / "blobs").iterdir())
    small = sum(p.stat().st_size for p in (server.root / "org" / name).iterdir()) - size
    assert blobs <= small + (header if alone else size), "of raw weights alone only the header"

    quantised.clear()
    server.requests.clear()
    before = file.read_bytes()
    warm = load(name, form, alone)
    assert warm.contents == cold.contents and warm.notes == [] and warm.kept
    assert server.requests == [] and quantised == []
    assert warm.read == warm.total == kept, "every byte is read once"
    assert warm.io.store is not None
    weights = [n for n in warm.io.store.read_bytes if n.endswith(file.name)]
    assert [warm.io.store.read_bytes[n] for n in weights] == [kept]
    assert sum(warm.io.store.read_bytes.values()) < kept + header + small + 30_000
    assert kept <= warm.uploaded < kept + 64 * len(warm.tensors)
    assert warm.io.store.calls == 1, "only the time of the last use is written"
    assert file.read_bytes() == before


@pytest.mark.parametrize("form", FORMS)
def test_the_file_holds_what_mlx_would_make(
    load: Fill, server: HubServer, stores: Path, repositories: Path, form: StorageForm
) -> None:
    load("bf16", form)
    bits = int(form[1])
    body = derived_files(stores, "bf16")[0].read_bytes()
    found, at = {}, 0
    model = dequantise(Checkpoint.golden("qwen2-mlx4-g64"), "BF16")
    for name, tensor in model.tensors.items():
        if not is_matrix(name, tensor):
            data = tensor.array.tobytes()
        else:
            fields, scale, bias = quantise(tensor.values, bits, 64)
            sides = [Stored.of(side, "BF16").array for side in (scale, bias)]
            data = pack(fields, bits).tobytes() + np.stack(sides, -1).tobytes()
        found[name] = body[at : at + len(data)] == data
        at += len(data)
    assert at == len(body) and all(found.values()), [n for n, same in found.items() if not same]


def test_it_does_not_depend_on_how_a_device_cuts_matrices(
    load: Fill,
    undisturbed: Callable[..., list[bytes]],
    server: HubServer,
    stores: Path,
    gpu: Gpu,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Weights stored on a device with a small binding limit serve one with a large limit, and the other way round."""
    whole = undisturbed("bf16")
    with monkeypatch.context() as patch:
        patch.setattr(gpu, "limits", replace(gpu.limits, max_binding_bytes=3000))
        cut = load("bf16")
        assert len(cut.contents) > len(whole), "something was cut"
    made = derived_files(stores, "bf16")[0].read_bytes()
    server.requests.clear()
    assert load("bf16").contents == whole and server.requests == []
    shutil.rmtree(folder(stores, "bf16"))
    load("bf16")
    assert derived_files(stores, "bf16")[0].read_bytes() == made
    server.requests.clear()
    monkeypatch.setattr(gpu, "limits", replace(gpu.limits, max_binding_bytes=3000))
    assert load("bf16").contents == cut.contents and server.requests == []


def test_huggingface_hub_reads_the_files_beside_it(
    load: Fill, server: HubServer, stores: Path
) -> None:
    load("bf16", alone=False)
    hub = stores / "hub"
    path = huggingface_hub.try_to_load_from_cache("org/bf16", "model.safetensors", hub, COMMIT)
    assert isinstance(path, str)
    assert Path(path).read_bytes() == weight_files(server, "bf16")[0].read_bytes()
    found = huggingface_hub.scan_cache_dir(hub)
    assert not found.warnings and [r.repo_id for r in found.repos] == ["org/bf16"]


# -- other forms, versions, commits ------------------------------------------------------------------------------------


@KEPT
def test_forms_do_not_mix(
    load: Fill,
    undisturbed: Callable[..., list[bytes]],
    server: HubServer,
    stores: Path,
    alone: bool,
) -> None:
    size = raw_bytes(server, "bf16")
    order: tuple[StorageForm, ...] = ("q4", "q8", "stored")
    for form in order:
        server.requests.clear()
        assert load("bf16", form, alone).contents == undisturbed("bf16", form), form
        fetched = asked(server)
        # After the first load the shared cache has the files; a store of its own has only their headers.
        if form == "q4":
            assert fetched == size
        else:
            assert fetched == (size - header_bytes(server, "bf16") if alone else 0), form
    assert len(derived_files(stores, "bf16")) == 2
    server.requests.clear()
    for form in order:
        again = load("bf16", form, alone)
        assert again.contents == undisturbed("bf16", form) and again.notes == [], form
    assert server.requests == []


def test_files_that_are_here_are_quantised_without_a_request(
    load: Fill, undisturbed: Callable[..., list[bytes]], server: HubServer
) -> None:
    load("f32", "stored")
    server.requests.clear()
    assert load("f32", "q4").contents == undisturbed("f32", "q4")
    assert load("f32", "q4").contents == undisturbed("f32", "q4")
    assert server.requests == []


def test_a_new_layout_takes_the_place_of_the_old_one(
    load: Fill,
    undisturbed: Callable[..., list[bytes]],
    server: HubServer,
    stores: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    load("bf16", "q4")
    load("bf16", "q8")
    old = derived_files(stores, "bf16")
    monkeypatch.setattr(derived, "LAYOUT", derived.LAYOUT + 1)
    server.requests.clear()
    assert load("bf16", "q4").contents == undisturbed("bf16", "q4")
    assert asked(server) == raw_bytes(server, "bf16") - header_bytes(server, "bf16")
    (new,) = derived_files(stores, "bf16")
    assert new not in old
    assert [s.form for s in index(stores, "bf16").files.values() if s.form] == ["q4"]
    server.requests.clear()
    assert load("bf16", "q4").contents == undisturbed("bf16", "q4") and server.requests == []


def test_a_commit_that_left_the_weights_alone_takes_them_over(
    load: Fill,
    undisturbed: Callable[..., list[bytes]],
    server: HubServer,
    stores: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    load("org/bf16")
    config = server.root / "org" / "bf16" / "config.json"
    config.write_text(config.read_text() + " ")
    monkeypatch.setattr(hub_module, "COMMIT", "e" * 40)
    server.requests.clear()
    newer = load("org/bf16")
    assert newer.contents == undisturbed("bf16") and asked(server) == 0
    assert len(derived_files(stores, "bf16")) == 1 and "was replaced" in newer.notes[0]
    file = derived_files(stores, "bf16")[0]
    body = bytearray(file.read_bytes())
    body[40] ^= 1
    file.write_bytes(body)
    repaired = load("org/bf16")
    assert repaired.contents == undisturbed("bf16") and "was damaged" in repaired.notes[0]


# -- damage ------------------------------------------------------------------------------------------------------------


@KEPT
@pytest.mark.parametrize("third", range(3))
def test_a_flipped_bit_in_any_tensor_is_made_good(
    load: Fill, server: HubServer, stores: Path, third: int, alone: bool
) -> None:
    """Every third tensor in turn is damaged: each is named, quantised again from its own bytes only, and written
    back."""
    cold = load("bf16", "q4", alone)
    (file,) = derived_files(stores, "bf16")
    whole = file.read_bytes()
    sums = index(stores, "bf16").sums
    damaged, hit, at = bytearray(whole), [], 0
    for i, tensor in enumerate(cold.tensors.values()):
        matrix = f"{tensor.name} as q4" in sums
        n = tensor.nbytes // 4 + tensor.nbytes // 2 // 64 * 4 if matrix else tensor.nbytes
        if i % 3 == third:
            damaged[at + (n - 1) * i // len(cold.tensors)] ^= 4
            hit.append(tensor)
        at += n
    assert at == len(whole)
    file.write_bytes(damaged)
    server.requests.clear()
    warm = load("bf16", "q4", alone)
    assert warm.contents == cold.contents and file.read_bytes() == whole
    names = sorted(note.split()[0] for note in warm.notes if "was damaged" in note)
    assert names == sorted(tensor.name for tensor in hit) and len(warm.notes) == len(hit)
    # Damaged neighbours may share a read with the bytes between them.
    least = sum(tensor.nbytes for tensor in hit) if alone else 0
    assert least <= asked(server) < (raw_bytes(server, "bf16") if alone else 1)
    server.requests.clear()
    assert load("bf16", "q4", alone).notes == [] and server.requests == []


@KEPT
@pytest.mark.parametrize("how", ["removed", "cut", "while it is read", "journal and index removed"])
def test_somebody_took_it_away(
    load: Fill,
    undisturbed: Callable[..., list[bytes]],
    server: HubServer,
    stores: Path,
    how: str,
    alone: bool,
) -> None:
    load("bf16", "q4", alone)
    (file,) = derived_files(stores, "bf16")
    whole = file.read_bytes()
    io = FaultIo(shared=not alone)
    if how == "removed":
        file.unlink()
    elif how == "cut":
        file.write_bytes(whole[: len(whole) // 2])
    elif how == "while it is read":
        take_away_at_second_read(io, file)
    else:
        for path in (folder(stores, "bf16") / "jerboa").glob(f"{COMMIT}.*"):
            path.unlink()
    server.requests.clear()
    again = load("bf16", "q4", alone, io=io)
    assert again.contents == undisturbed("bf16") and again.read == again.total
    # The next load quantises again what was read before the file went away.
    if how == "while it is read":
        assert load("bf16", "q4", alone).contents == undisturbed("bf16")
    if alone and how == "cut":
        assert 0 < asked(server) < 0.7 * raw_bytes(server, "bf16")
    elif not alone:
        assert asked(server) == 0, "made again from the files"
    assert file.read_bytes() == whole
    server.requests.clear()
    assert load("bf16", "q4", alone).contents == undisturbed("bf16") and server.requests == []


def take_away_at_second_read(io: FaultIo, file: Path) -> None:
    opened = io.open_store

    async def open_store(name: str) -> Any:
        store = await opened(name)
        read, seen = store.read, 0

        async def watched(name: str, start: int = 0, end: int | None = None) -> Any:
            nonlocal seen
            seen += name.endswith(file.name)
            if seen == 2 and name.endswith(file.name):
                file.unlink()
            return await read(name, start, end)

        store.read = watched  # type: ignore[method-assign]
        return store

    io.open_store = open_store  # type: ignore[method-assign, assignment]


def test_nothing_is_made_of_damaged_bytes(
    load: Fill,
    undisturbed: Callable[..., list[bytes]],
    server: HubServer,
    stores: Path,
    run: Runner,
) -> None:
    """The whole file is stored, but damaged. The first load that quantises it names the tensor, and so does the load
    after a kill at any point of that load."""
    cold = load("small", "stored", False)
    blob = max((folder(stores, "small") / "blobs").iterdir(), key=lambda p: p.stat().st_size)
    tensor = next(t for t in cold.tensors.values() if t.name.endswith("mlp.up_proj.weight"))
    body = bytearray(blob.read_bytes())
    body[tensor.start + 33] ^= 0x40
    shutil.copytree(stores, stores.parent / "as it was")
    k, killed = 0, True
    while killed:
        k += 5
        assert k < 5000, "it is killed at every boundary"
        shutil.rmtree(stores)
        shutil.copytree(stores.parent / "as it was", stores, symlinks=True)
        blob.write_bytes(body)
        killed = not completed(load, "small", k, alone=False)
        warm = load("small", "q4", False)
        assert warm.contents == undisturbed("small"), k
        again = load("small", "q4", False)
        assert again.contents == undisturbed("small") and again.notes == [], k
    assert k > 20


def test_wrong_bytes_of_the_hub_do_not_take_the_place_of_damaged_ones(
    load: Fill, undisturbed: Callable[..., list[bytes]], server: HubServer, stores: Path
) -> None:
    """A vector is damaged in its file and in the derived one, and then comes wrong from the hub, too."""
    cold = load("small", "q4", False)
    tensor = next(t for t in cold.tensors.values() if t.name.endswith("input_layernorm.weight"))
    (source,) = weight_files(server, "small")
    right = source.read_bytes()
    vector = right[tensor.start : tensor.end]
    blob = max((folder(stores, "small") / "blobs").iterdir(), key=lambda p: p.stat().st_size)
    for file in (blob, *derived_files(stores, "small")):
        flip(file, file.read_bytes().index(vector) + 5)
    before = source.stat()
    flip(source, tensor.start + 6)
    os.utime(source, ns=(before.st_atime_ns, before.st_mtime_ns))  # the hub names the old sha256
    with pytest.raises(HubError, match="sha256"):
        load("small", "q4", False)
    source.write_bytes(right)
    os.utime(source, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert load("small", "q4", False).contents == undisturbed("small")
    again = load("small", "q4", False)
    assert again.contents == undisturbed("small") and again.notes == []


def flip(file: Path, place: int) -> None:
    """Flip a bit of a file's byte."""
    body = bytearray(file.read_bytes())
    body[place] ^= 0x40
    file.write_bytes(body)


# -- a kill ------------------------------------------------------------------------------------------------------------


def completed(
    load: Fill, name: str, k: int, *, alone: bool, half: bool = False, form: StorageForm = "q4"
) -> bool:
    """Run a load whose process ends at the k-th change of its store, or half way through it. Returns whether it
    finished."""
    io = FaultIo(shared=not alone)
    opened = io.open_store

    async def open_store(name: str) -> Any:
        store: Any = await opened(name)
        write, step = store.write, store._step

        def before(method: str, name: str) -> None:
            step(method, name)
            if store.calls > k or store.calls == k and not (half and method == "write"):
                raise Killed

        async def cut(name: str, offset: int, data: Any) -> None:
            if store.calls + 1 == k and half:
                await write(name, offset, memoryview(data)[: len(data) // 2])
                raise Killed
            await write(name, offset, data)

        store._step, store.write = before, cut
        return store

    io.open_store = open_store  # type: ignore[method-assign, assignment]
    try:
        load(name, form, alone, io=io)
    except Killed:
        return False
    return True


@pytest.mark.parametrize(
    "name, form, alone, half",
    [
        ("small", "q4", True, False),
        pytest.param("small", "q4", True, True, marks=pytest.mark.slow),
        pytest.param("small", "q4", False, False, marks=pytest.mark.slow),
        pytest.param("f32", "q8", True, False, marks=pytest.mark.slow),
        ("sharded", "q4", True, False),
    ],
)
def test_killed_at_every_write_boundary(
    load: Fill,
    undisturbed: Callable[..., list[bytes]],
    server: HubServer,
    stores: Path,
    run: Runner,
    name: str,
    form: StorageForm,
    alone: bool,
    half: bool,
) -> None:
    """The next load completes bit for bit. Of what was not yet stored whole, it fetches again at most a tensor and the
    slices that were in flight. (Only the first case tries all boundaries, the others some.)"""
    size, k, kills = raw_bytes(server, name), 0, 0
    whole: set[bytes] = set()
    largest = max(t.nbytes for t in load(str(server.root / "org" / name)).tensors.values())
    while True:
        k += 7 if name != "small" else 1 if alone and not half else 3
        assert k < 5000, "it is killed at every boundary"
        shutil.rmtree(stores / "hub", ignore_errors=True)
        server.requests.clear()
        if completed(load, name, k, alone=alone, half=half, form=form):
            break
        kills += 1
        next_one = load(name, form, alone)
        assert next_one.contents == undisturbed(name, form) and next_one.notes == [], k
        assert asked(server) <= size + largest + 2 * SLICE, k
        (file,) = derived_files(stores, name)
        whole.add(file.read_bytes())
        if kills % 5 == 0:
            server.requests.clear()
            again = load(name, form, alone)
            assert again.contents == undisturbed(name, form) and server.requests == [], k
    assert kills > 5 and len(whole) == 1


def test_a_resumed_load_knows_damage_to_what_the_killed_one_kept(
    load: Fill, undisturbed: Callable[..., list[bytes]], server: HubServer, stores: Path
) -> None:
    """Checksums are in the journal, so damage between the two loads is found."""
    assert not completed(load, "bf16", 60, alone=True)
    (file,) = derived_files(stores, "bf16")
    body = bytearray(file.read_bytes())
    body[100] ^= 1
    file.write_bytes(body)
    resumed = load("bf16")
    assert resumed.contents == undisturbed("bf16")
    assert [note.split()[3:5] for note in resumed.notes] == [["was", "damaged"]]


# -- no room -----------------------------------------------------------------------------------------------------------


@KEPT
def test_no_room_at_every_write(
    load: Fill,
    undisturbed: Callable[..., list[bytes]],
    server: HubServer,
    stores: Path,
    run: Runner,
    alone: bool,
) -> None:
    """The load is right whatever is refused, and reports it. What is stored is whole."""
    cold = load("small", "q4", alone)
    assert cold.io.store is not None
    for k in range(1, cold.io.store.calls, 2 if alone else 5):
        shutil.rmtree(stores / "hub", ignore_errors=True)

        def refuse(n: int, method: str, name: str, k: int = k) -> None:
            if n >= k and method != "delete":
                raise StorageFullError(f"{name}: there is no room left on this disk.")

        made = load("small", "q4", alone, refuse)
        assert made.contents == undisturbed("small"), k
        found = stored(FaultIo(shared=not alone), "small", run)
        if made.kept:
            assert found is not None and made.notes == [], k
        else:
            assert found is None and "not kept on this device" in made.notes[-1], k
            left = [p for p in (stores / "hub").rglob("*") if p.is_file()]
            assert not [p for p in left if ".locks" not in p.parts], k


def test_without_room_for_both_the_whole_files_are_kept(
    load: Fill, undisturbed: Callable[..., list[bytes]], server: HubServer, stores: Path
) -> None:
    def refuse(n: int, method: str, name: str) -> None:
        if "/derived/" in name and method != "delete":
            raise StorageFullError("full")

    made = load("bf16", "q4", False, refuse)
    assert made.contents == undisturbed("bf16") and made.kept
    assert len(made.notes) == 1 and "quantised weights are not kept" in made.notes[0]
    assert derived_files(stores, "bf16") == []
    server.requests.clear()
    assert load("bf16", "q4", False).contents == undisturbed("bf16") and server.requests == []
    assert len(derived_files(stores, "bf16")) == 1


@KEPT
def test_a_store_that_cannot_be_written(
    load: Fill, undisturbed: Callable[..., list[bytes]], server: HubServer, alone: bool
) -> None:
    """What the store has is read; the load reports once that the rest is not stored."""
    load("bf16", "stored", alone)
    server.requests.clear()

    def refuse(n: int, method: str, name: str) -> None:
        raise StorageError(f"{name}: read-only file system.")

    made = load("bf16", "q4", alone, refuse)
    assert made.contents == undisturbed("bf16") and server.requests == []
    assert len(made.notes) == 1 and "read-only" in made.notes[0] and made.kept is not alone
    again = load("bf16", "q4", alone)
    assert again.contents == undisturbed("bf16") and again.notes == [] and again.kept


def test_another_form_of_the_model_makes_room_first(
    load: Fill, undisturbed: Callable[..., list[bytes]], server: HubServer, stores: Path
) -> None:
    load("f32", "q4")
    load("bf16", "q4")
    refused: list[str] = []

    def refuse(n: int, method: str, name: str) -> None:
        if "/derived/" in name and method == "write" and not refused:
            refused.append(name)
            raise StorageFullError("full")

    made = load("bf16", "q8", before=refuse)
    assert refused and made.contents == undisturbed("bf16", "q8") and made.notes == []
    assert [s.form for s in index(stores, "bf16").files.values() if s.form] == ["q8"]
    assert len(derived_files(stores, "bf16")) == len(derived_files(stores, "f32")) == 1


def test_a_second_form_without_room_for_it(
    load: Fill, undisturbed: Callable[..., list[bytes]], server: HubServer, stores: Path
) -> None:
    """The tensors of the first form are deleted to make room. If that is not enough, the load runs without being
    stored, and the next one is whole again."""
    load("bf16", "stored")

    def refuse(n: int, method: str, name: str) -> None:
        if "/derived/" in name and method == "write":
            raise StorageFullError("full")

    made = load("bf16", "q8", before=refuse)
    assert made.contents == undisturbed("bf16", "q8") and not made.kept
    assert "not kept on this device" in made.notes[-1] and derived_files(stores, "bf16") == []
    largest = max(p.stat().st_size for p in (folder(stores, "bf16") / "blobs").iterdir())
    assert largest < 6000, "the header is there still"
    for form in FORMS:
        again = load("bf16", form)
        assert again.contents == undisturbed("bf16", form) and again.notes == [] and again.kept


def test_what_is_here_is_read_when_nothing_more_can_be_written(
    load: Fill, undisturbed: Callable[..., list[bytes]], server: HubServer, stores: Path
) -> None:
    load("bf16")
    blobs = [p for p in (folder(stores, "bf16") / "blobs").iterdir()]
    (config,) = (p for p in blobs if b"vocab_size" in p.read_bytes())
    config.write_bytes(b" " + config.read_bytes()[1:])
    server.requests.clear()

    def refuse(n: int, method: str, name: str) -> None:
        if method != "delete":
            raise StorageFullError("full")

    made = load("bf16", before=refuse)
    assert made.contents == undisturbed("bf16") and not made.kept
    assert asked(server) == 0 and len(derived_files(stores, "bf16")) == 1


# -- the hub's own sum -------------------------------------------------------------------------------------------------


class Notes(list[str]):
    """The notes of a load. The first note triggers an action."""

    def __init__(self, then: Callable[[], object]) -> None:
        super().__init__()
        self._then = then

    def append(self, note: str) -> None:
        if not self:
            self._then()
        super().append(note)


@pytest.mark.parametrize("name", ["bf16", "sharded"])
def test_what_passed_by_is_compared_with_the_hubs_sha256(
    load: Fill,
    undisturbed: Callable[..., list[bytes]],
    server: HubServer,
    stores: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
) -> None:
    """If the sha256 is wrong once, everything is fetched and quantised again."""
    *_, file = weight_files(server, name)
    good = file.read_bytes()
    sum_ = hub_module._sha256(file)
    real = hub_module._sha256
    monkeypatch.setattr(hub_module, "_sha256", lambda p: sum_ if p == file else real(p))
    spoiled = bytearray(good)
    spoiled[len(good) // 2] ^= 0x20
    file.write_bytes(spoiled)
    made = load(name, notes=Notes(lambda: file.write_bytes(good)))
    assert made.contents == undisturbed(name)
    assert [n.split(" ", 1)[0] for n in made.notes] == [file.name] and "sha256" in made.notes[0]
    server.requests.clear()
    assert load(name).contents == undisturbed(name) and server.requests == []

    shutil.rmtree(folder(stores, name))
    file.write_bytes(spoiled)
    with pytest.raises(HubError, match="sha256 that its hub gives"):
        load(name)
    assert not (folder(stores, name) / "jerboa" / f"{COMMIT}.json").exists()
    file.write_bytes(good)
    assert load(name).contents == undisturbed(name), "nothing that was wrong was kept"


# -- several at once ---------------------------------------------------------------------------------------------------


def test_two_that_load_it_fetch_it_once(
    gpu: Gpu,
    run: Runner,
    undisturbed: Callable[..., list[bytes]],
    server: HubServer,
) -> None:
    """The store is empty at first. Later it has one form, and both loads want the other."""
    wanted = {form: undisturbed("bf16", form) for form in FORMS}

    async def both(form: StorageForm) -> list[Filled]:
        ios = [FaultIo(shared=False) for _ in range(2)]
        loads = [fill(gpu, f"org/bf16@{COMMIT}", form, io) for io in ios]
        return await asyncio.gather(*loads)

    for form in FORMS:
        server.requests.clear()
        for made in run(both(form)):
            assert made.contents == wanted[form] and made.kept
        assert asked(server) <= 1.05 * raw_bytes(server, "bf16")


# -- large tensors, and what people see --------------------------------------------------------------------------------


def test_a_large_tensor_is_read_back_piece_by_piece(
    load: Fill,
    server: HubServer,
    gpu: Gpu,
    monkeypatch: pytest.MonkeyPatch,
    quantised: list[str],
) -> None:
    """Neither the tensor's own bytes nor its quantised form is ever held whole in memory."""
    monkeypatch.setattr(loader, "cut", loader.cut.func)  # type: ignore[attr-defined]
    model = dequantise(Checkpoint.golden("qwen2-mlx4-g64"), "BF16")
    name = model.find("embed_tokens.weight")
    values = np.random.default_rng(3).standard_normal((300_000, 64))
    model.tensors[name] = Stored.of(values.astype(np.float32), "BF16")  # 38 MB, 20 MB in 8 bits
    model.config["vocab_size"] = len(values)
    model.write(server.root / "org" / "wide")
    moved = []
    download = gpu.download

    async def watched(buffer: Buffer, offset: int, nbytes: int) -> Any:
        moved.append(nbytes)
        return await download(buffer, offset, nbytes)

    monkeypatch.setattr(gpu, "download", watched)
    cold = load("wide", "q8")
    whole = quantised_bytes(model, 8)
    assert max(moved) < 9 << 20 and sum(moved) < whole, "once, and without the small tensors"
    assert cold.peak_bytes <= 2 * loader.SLICE_BYTES + (9 << 20)
    quantised.clear()
    warm = load("wide", "q8")
    assert warm.contents == cold.contents and warm.read == whole and quantised == []
    assert warm.peak_bytes <= 2 * loader.SLICE_BYTES


def test_it_is_listed_verified_and_cleaned(
    load: Fill, server: HubServer, stores: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def command(*arguments: str) -> tuple[int, Any]:
        code = main(["cache", *arguments, "--json"])
        return code, json.loads(capsys.readouterr().out.splitlines()[-1])

    load("bf16", "stored", False)
    size = command("list")[1]["nbytes"]
    load("bf16", "q4", False)
    load("bf16", "q8", False)
    q4, q8 = (
        next(p for p in derived_files(stores, "bf16") if p.stat().st_size == n)
        for n in (
            quantised_bytes(dequantise(Checkpoint.golden("qwen2-mlx4-g64"), "BF16"), bits)
            for bits in (4, 8)
        )
    )
    code, found = command("list")
    assert (
        found["nbytes"]
        == found["models"][0]["nbytes"]
        == size + q4.stat().st_size + q8.stat().st_size
    )
    code, found = command("verify")
    assert code == 0 and {f["state"] for f in found["files"]} == {"good"}
    body = bytearray(q4.read_bytes())
    body[999] ^= 1
    q4.write_bytes(body)
    q8.unlink()
    code, found = command("verify", "org/bf16")
    states = {f["file"].split(".")[0]: f["state"] for f in found["files"]}
    assert code == 1 and (states["weights-q4"], states["weights-q8"]) == ("damaged", "missing")
    for form in FORMS:
        load("bf16", form, False)
    assert command("verify")[0] == 0, "the next loads repaired them"
    lost = q4.with_name("0" * 40)
    lost.write_bytes(b"of a process that ended before its first note")
    command("clean", "--yes")
    left = [p for p in (stores / "hub").rglob("*") if p.is_file() and ".locks" not in p.parts]
    assert left == []


def test_its_loads_are_timed(gpu: Gpu, run: Runner, server: HubServer) -> None:
    io = FaultIo()
    notes: list[str] = []
    got = run(bench_load(f"org/bf16@{COMMIT}", gpu, io, 2, notes.append, "q4"))
    io.close()
    model = dequantise(Checkpoint.golden("qwen2-mlx4-g64"), "BF16")
    assert got["bytes"] == quantised_bytes(model, 4) < 0.3 * got["first_bytes"]
    assert len(got["load_s"]) == len(got["bytes_s"]) == 2 and notes == []
    parts = got["first_parts"]
    assert parts.keys() >= {"fetch", "write", "sha256", "upload"}
    assert 0 < parts["write"] < parts["fetch"] < got["first_s"] + 1
    assert not {"fetch", "open_store", "sha256"} & vars(io).keys(), "nothing is left in its place"
