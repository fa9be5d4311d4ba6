"""Namespaces of a memory over real files: killed at every write, several processes at once, a full disk, damage."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from py_engine.errors import InputError, StorageError, StorageFullError
from py_engine.host.io_native import NativeIo
from py_engine.memory import namespace as module
from py_engine.memory.head import delete, folder_of, namespaces
from py_engine.memory.namespace import Namespace
from py_engine.memory.records import Identity, Piece
from py_engine.memory.vectors import pack_rows, unpack_rows
from tests.hub_loads import FaultStore, die

WHO = Identity("org/embedder@0123", 12, {"pooling": "mean", "document": "", "query": "query: "})
BATCHES = ([3, 1, 4], 6), ([9], 1), ([2, 7], 2)  # what the pieces are about; how many of them


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "memory"


@pytest.fixture(autouse=True)
def no_fsync(monkeypatch: pytest.MonkeyPatch) -> None:
    """These tests kill processes, not machines."""
    monkeypatch.setattr("os.fsync", lambda _: None)
    monkeypatch.setattr("os.fdatasync", lambda _: None)


def store(root: Path, before: Callable[[int, str, str], None] = lambda *_: None) -> FaultStore:
    return FaultStore(root, before, shared=False)


def batch(name: str, n: int) -> tuple[list[Piece], bytes]:
    """Pieces with texts of their own, and the vectors that belong to them."""
    pieces = [Piece(f"{name} {i}: é\n\u2028 end", f"{name}.txt", ("A", "B")) for i in range(n)]
    return pieces, pack_rows(vector(piece.text) for piece in pieces)


def vector(text: str) -> list[float]:
    draw = random.Random(text)
    return [draw.uniform(-1, 1) for _ in range(WHO.dimensions)]


async def opened(where: FaultStore, name: str = "notes", **options: Any) -> Namespace:
    return await Namespace.open(where, NativeIo(), name, WHO, **options)


async def whole(space: Namespace) -> list[str]:
    """The texts in their order. Each has the vector that was stored with it."""
    await space.sync()
    rows: dict[int, tuple[float, ...]] = {}
    async for first, data in space.vectors():
        rows |= dict(enumerate(unpack_rows(data, WHO.dimensions), first))
    for row, record in space.records.items():
        [wanted] = unpack_rows(pack_rows([vector(record.piece.text)]), WHO.dimensions)
        assert rows[row] == wanted
        assert space.live[row // 8] >> row % 8 & 1 and space.find(record.id) is record
    assert sum(byte.bit_count() for byte in space.live) == len(space.records)
    return [record.piece.text for record in space.records.values()]


def texts(*names: str, n: int = 3) -> list[str]:
    return [piece.text for name in names for piece in batch(name, n)[0]]


async def write_all(where: FaultStore) -> None:
    """Three batches; then one piece of the first is forgotten, and the namespace written anew."""
    space = await opened(where)
    for name in ("one", "two", "three"):
        await space.add(*batch(name, 3), ids=[f"{name}-{i}" for i in range(3)])
    await space.forget(["one-1"])
    async with space._locked():
        await space._rewrite([*space.records.values()])


def changes(root: Path) -> int:
    where = store(root)
    asyncio.run(write_all(where))
    return where.calls


def killed_at(root: Path, k: int, half: bool) -> bool:
    """`write_all` in a child process that dies before the k-th change of its store, or half way through it if it is a
    write. Returns whether it died."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # about forking beside threads
        child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    try:
        where = store(root, lambda n, *_: die() if n == k and not half else None)
        write = where.write

        async def write_half(name: str, offset: int, data: Any) -> None:
            if where.calls == k - 1:
                await write(name, offset, memoryview(data)[: len(data) // 2])
                die()
            await write(name, offset, data)

        if half:
            where.write = write_half  # type: ignore[method-assign]
        asyncio.run(write_all(where))
    finally:
        os._exit(0)


@pytest.mark.parametrize("half", [False, True], ids=["between writes", "within a write"])
def test_killed_at_every_write(root: Path, half: bool) -> None:
    """Whatever is killed, all batches before the one under way are there and whole, in order; nothing of a batch is
    there without the rest; and the next batch can be added."""
    stages = [[], texts("one"), texts("one", "two"), texts("one", "two", "three")]
    last = [text for text in stages[-1] if not text.startswith("one 1:")]
    stages.append(last)
    kills, seen = 0, set[int]()
    for k in range(1, changes(root) + 1):
        shutil.rmtree(root)
        if not killed_at(root, k, half):
            assert half, "each change is a place to die"
            continue
        kills += 1

        async def look(k: int = k) -> int:
            space = await opened(store(root))
            found = await whole(space)
            assert found in stages, f"killed at {k}"
            await space.add(*batch("four", 2))
            again = await whole(await opened(store(root)))
            assert again == [*found, *texts("four", n=2)] == await whole(space)
            return stages.index(found)

        stage = asyncio.run(look())
        assert stage >= max(seen, default=0)
        seen.add(stage)
        if stage == 4:  # the next batch, at the latest, has overwritten what was forgotten
            files = [p.read_bytes() for p in (root / "notes").glob("texts.*")]
            assert not any(b"one 1:" in body for body in files[-1:] if len(files) == 1)
    assert seen == set(range(5))
    assert kills > (8 if half else 25)


def test_two_processes_add_at_once(root: Path) -> None:
    """Both add batches while the other does, and see everything afterwards."""

    def child(name: str) -> int:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            pid = os.fork()
        if pid:
            return pid
        try:

            async def add() -> None:
                space = await opened(store(root))
                for i in range(8):
                    await space.add(*batch(f"{name}{i}", 3))
                    await asyncio.sleep(0.001)

            asyncio.run(add())
            os._exit(0)
        finally:
            os._exit(1)

    for pid in [child("a"), child("b"), child("c")]:
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    found = asyncio.run(whole_of(root))
    every = [f"{name}{i}" for name in "abc" for i in range(8)]
    assert sorted(found) == sorted(texts(*every))
    for name in "abc":
        mine = [text for text in found if text[0] == name]
        assert mine == texts(*(f"{name}{i}" for i in range(8))), "in the order of its process"


async def whole_of(root: Path) -> list[str]:
    return await whole(await opened(store(root)))


def test_one_sees_what_another_changes(root: Path) -> None:
    async def go() -> None:
        one, two = await opened(store(root)), await opened(store(root))
        ids = await one.add(*batch("a", 3))
        assert await whole(two) == texts("a")
        version = two.version
        await two.sync()
        assert two.version == version, "nothing was changed"
        assert await two.forget([ids[0], "absent"]) == 1
        assert await whole(one) == texts("a")[1:]
        assert await one.add(*batch("a", 3), ids=[*ids[1:], "new"]) == [*ids[1:], "new"]
        assert len(await whole(two)) == 3, "ids that are there already are left out"
        assert await one.clear() == 3
        assert await whole(two) == [] and two.rows == 0
        await two.add(*batch("b", 1))
        assert await whole(one) == texts("b", n=1)
        await delete(store(root), "notes")
        assert await whole(one) == []

    asyncio.run(go())


def test_what_is_forgotten_leaves_the_disk(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def go() -> None:
        space = await opened(store(root))
        ids = await space.add(*batch("secret", 3))
        await space.add(*batch("b", 3))
        await space.forget(ids)
        assert b"secret" not in b"".join(p.read_bytes() for p in (root / "notes").glob("*"))
        assert await whole(await opened(store(root))) == texts("b")
        monkeypatch.setattr(module, "MANY_GONE", 4)
        generation = space.generation
        await space.forget([next(iter(space.records.values())).id])
        assert space.generation == generation + 1 and space.rows == 2
        assert await whole(await opened(store(root))) == texts("b")[1:] == await whole(space)
        assert sorted(p.name for p in (root / "notes").iterdir()) == [
            "head.json", "journal.2", "texts.2", "vectors.2",
        ]  # fmt: skip

    asyncio.run(go())


def test_a_full_disk_loses_only_the_batch_under_way(root: Path) -> None:
    """Whichever write finds no room."""

    async def go() -> None:
        space = await opened(store(root))
        await space.add(*batch("a", 3))
        k, failures = 0, 0
        while True:
            k += 1

            def full(n: int, method: str, name: str, k: int = k) -> None:
                if n == k and method == "write":
                    raise StorageFullError(f"{name}: there is no room left on this disk.")

            other = await opened(store(root, full))
            before = len(other.records)
            try:
                await other.add(*batch(f"b{k}", 2))
            except StorageFullError:
                failures += 1
                assert len(await whole(other)) == before == len(await whole_of(root))
                continue
            if k > 8:
                break
        assert failures == 3
        assert len(await whole_of(root)) == len(await whole(space)) > 3

    async def whole_of(root: Path) -> list[str]:
        return await whole(await opened(store(root)))

    asyncio.run(go())


def damage(path: Path, at: int) -> None:
    body = bytearray(path.read_bytes())
    body[at] ^= 1
    path.write_bytes(body)


@pytest.mark.parametrize(
    ("file", "at", "left", "named"),
    [
        ("journal.1", 20, ("b", "c"), "line 1 of its journal"),
        ("journal.1", 120, ("a", "c"), "line 2 of its journal"),
        ("texts.1", 40, ("a", "b", "c"), "the text of row 0"),
        ("vectors.1", 100, ("a", "c"), "the vectors of rows 3 to 5"),
    ],
)
def test_damage_is_told_and_what_is_whole_stays(
    root: Path, file: str, at: int, left: Sequence[str], named: str
) -> None:
    async def go() -> None:
        space = await opened(store(root))
        for name in "abc":
            await space.add(*batch(name, 3))
        damage(root / "notes" / file, at)
        with pytest.raises(StorageError, match=rf"{named}.*repair=True"):
            await whole(await opened(store(root)))
        mended = await opened(store(root), repair=True)
        found = await whole(mended)
        wanted = texts(*left)
        assert found == (wanted[1:] if file == "texts.1" else wanted)
        await mended.add(*batch("d", 3))
        assert await whole(await opened(store(root))) == [*found, *texts("d")]

    asyncio.run(go())


def test_a_journal_whose_last_line_was_never_finished_is_whole(root: Path) -> None:
    async def go() -> None:
        space = await opened(store(root))
        await space.add(*batch("a", 3))
        path = root / "notes" / "journal.1"
        for rest in (b"7", path.read_bytes()[:50], path.read_bytes()[:50] + b"\n", b"\xff\n" * 9):
            before = path.read_bytes()
            path.write_bytes(before + rest)
            assert await whole(await opened(store(root))) == texts("a")
            path.write_bytes(before)
        path.write_bytes(path.read_bytes() + b"x" * 500 + b"\n")
        await space.add(*batch("b", 1))
        assert await whole(await opened(store(root))) == [*texts("a"), *texts("b", n=1)]

    asyncio.run(go())


def test_another_embedder_is_refused_and_told(root: Path) -> None:
    async def go() -> None:
        await (await opened(store(root))).add(*batch("a", 1))
        for other, told in (
            (replace(WHO, model="org/other@9"), "model 'org/embedder@0123', not 'org/other@9'"),
            (replace(WHO, dimensions=8), "dimensions 12, not 8"),
            (
                replace(WHO, settings={**WHO.settings, "pooling": "first"}),
                "pooling 'mean', not 'first'",
            ),
        ):
            with pytest.raises(InputError, match=f"another embedder: {told}"):
                await Namespace.open(store(root), NativeIo(), "notes", other)
        found = await namespaces(store(root), NativeIo())
        assert [(n["namespace"], n["model"], n["dimensions"]) for n in found] == [
            ("notes", "org/embedder@0123", 12)
        ]
        assert found[0]["nbytes"] > 100

    asyncio.run(go())


@pytest.mark.parametrize("name", ["a/b", ".hidden", "Größe 1", "..", "%2e", "CON"])
def test_any_name_is_a_folder_of_its_own(root: Path, name: str) -> None:
    async def go() -> None:
        await (await opened(store(root), name)).add(*batch("a", 1))
        assert [n["namespace"] for n in await namespaces(store(root), NativeIo())] == [name]
        assert [p.name for p in root.iterdir() if p.name != ".locks"] == [folder_of(name)]

    asyncio.run(go())


@pytest.mark.parametrize("name", ["", " a", "x" * 65, "a\n", "\ud800", None, 7])
def test_what_is_no_name(name: Any) -> None:
    with pytest.raises(InputError, match="namespace="):
        folder_of(name)


@pytest.mark.parametrize("text", [b"", b"[]", b'{"layout": 2}', b'{"layout": 1}', b"\xff"])
def test_a_damaged_head_is_an_error_and_can_be_deleted(root: Path, text: bytes) -> None:
    async def go() -> None:
        await (await opened(store(root))).add(*batch("a", 1))
        (root / "notes" / "head.json").write_bytes(text)
        with pytest.raises(StorageError, match="notes"):
            await opened(store(root))
        [entry] = await namespaces(store(root), NativeIo())
        assert "error" in entry
        await delete(store(root), "notes")
        await (await opened(store(root))).add(*batch("b", 1))
        assert await whole_of(root) == texts("b", n=1)

    asyncio.run(go())


@pytest.fixture(autouse=True)
def small_slices(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Several batches a slice, and several slices."""
    monkeypatch.setattr(module, "SLICE_BYTES", 300)
    yield
