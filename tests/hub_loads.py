"""Loads a repository as the engine does, without a GPU. test_cache.py and its child processes use it."""

from __future__ import annotations

import hashlib
import json
import os
import random
import struct
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from py_engine.graph.trace import Tensor
from py_engine.host.io import Bytes
from py_engine.host.io_native import NativeIo
from py_engine.host.store_native import FileStore
from py_engine.kept.opening import open_kept
from py_engine.sources.address import open_repository
from py_engine.sources.jobs import Job
from py_engine.sources.repository import Sum
from py_engine.sources.safetensors import read_tensors
from py_engine.weights.loader import cut

SLICE_BYTES = 64 << 10
SIZES = (64, 4096, 90_000, 256, 30_000, 64, 128, 8192, 64, 1024, 512, 20_000)
NAME = "org/tiny"
WRITES = ("write", "flush", "replace", "rename", "link", "delete")


def make_repository(root: Path, seed: int = 0, sizes: Sequence[int] = SIZES) -> dict[str, bytes]:
    """Make ROOT/org/tiny with a config, a tokenizer and tensors of random bytes; returns the tensors by name."""
    folder = root / NAME
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {f"t{i}": random.Random(f"{seed} {i}").randbytes(n) for i, n in enumerate(sizes)}
    header, at = {}, 0
    for name, data in tensors.items():
        offsets = [at, at + len(data)]
        header[name] = {"dtype": "U32", "shape": [len(data) // 4], "data_offsets": offsets}
        at += len(data)
    text = json.dumps(header).encode()
    body = struct.pack("<Q", len(text)) + text + b"".join(tensors.values())
    (folder / "model.safetensors").write_bytes(body)
    (folder / "config.json").write_text(json.dumps({"model_type": "qwen3", "seed": seed}))
    (folder / "tokenizer.json").write_text("{}" + " " * 3000)
    return tensors


class FaultStore(FileStore):
    """A FileStore that calls `before(k, method, data)` before its k-th change (k starts at 1)."""

    def __init__(
        self, root: Path, before: Callable[[int, str, str], None], shared: bool = True
    ) -> None:
        super().__init__(root, shared=shared)
        self.calls = 0
        self.read_bytes: dict[str, int] = {}
        self._before = before

    def _step(self, method: str, name: str) -> None:
        self.calls += 1
        self._before(self.calls, method, name)

    async def read(self, name: str, start: int = 0, end: int | None = None) -> Bytes:
        data = await super().read(name, start, end)
        self.read_bytes[name] = self.read_bytes.get(name, 0) + len(data)
        return data

    async def write(self, name: str, offset: int, data: Bytes) -> None:
        self._step("write", name)
        await super().write(name, offset, data)

    async def flush(self, name: str) -> None:
        self._step("flush", name)
        await super().flush(name)

    async def replace(self, name: str, data: bytes) -> None:
        self._step("replace", name)
        await super().replace(name, data)

    async def rename(self, name: str, new: str) -> None:
        self._step("rename", name)
        await super().rename(name, new)

    async def link(self, name: str, target: str) -> None:
        self._step("link", name)
        await super().link(name, target)

    async def delete(self, name: str) -> None:
        self._step("delete", name)
        await super().delete(name)


class FaultIo(NativeIo):
    """NativeIo over a FaultStore in the usual place; it does not wait between attempts. With `shared` False the store
    belongs to the engine alone, as a browser's does."""

    def __init__(
        self, before: Callable[[int, str, str], None] = lambda *_: None, *, shared: bool = True
    ) -> None:
        super().__init__()
        self._before = before
        self._shared = shared
        self.store: FaultStore | None = None

    async def open_store(self, name: str, *, records: bool = False) -> FileStore:
        opened = await super().open_store(name, records=records)
        self.store = FaultStore(opened.root, self._before, self._shared)
        return self.store

    async def sleep(self, seconds: float) -> None:
        pass


async def load(
    io: NativeIo, address: str = NAME, notes: list[str] | None = None, only: Sequence[str] = ()
) -> dict[str, bytes]:
    """Load all tensors (or those in `only`), read as the loader reads them. The sum of each is compared as the GPU's
    sum would be."""
    notes = notes if notes is not None else []
    repository = await open_repository(address, io, partial(open_kept, note=notes.append))
    try:
        await repository.json("config.json")
        await repository.bytes("tokenizer.json")
        if await repository.exists("chat_template.jinja"):
            await repository.bytes("chat_template.jinja")
        infos = await read_tensors(repository)
        left = [info for name, info in infos.items() if not only or name in only]
        got: dict[str, bytearray] = {t.name: bytearray(t.nbytes) for t in left}
        target = Tensor("target", (1,))
        await repository.expect([Job(info, 0, info.nbytes, "copy", target, 0) for info in left])
        while left:
            jobs = [Job(info, 0, info.nbytes, "copy", target, 0) for info in left]
            for piece in cut(jobs, SLICE_BYTES):
                data = io.to_bytes(await repository.read(piece.file, piece.start, piece.end))
                for job, start, end in piece.pieces:
                    at = job.tensor.start + start - piece.start
                    got[job.tensor.name][start:end] = data[at : at + end - start]
            sums = {info: Sum(0, info.nbytes, _sum(bytes(got[info.name]))) for info in left}
            wrong = await repository.check(sums)
            left = [info for info in left if info.name in wrong]
        await repository.commit()
        return {name: bytes(data) for name, data in got.items()}
    finally:
        await repository.close()


def _sum(data: bytes) -> int:
    return int.from_bytes(hashlib.sha256(data).digest()[:8], "little")


class Killed(BaseException):
    """The process was killed: from here on nothing is written."""


def die(_: object = None) -> None:
    """End the process as a kill would: without any cleanup."""
    os._exit(9)
