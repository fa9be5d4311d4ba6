"""Saved sessions: restored bit for bit into a model that was loaded again, and refused by any other model."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from app.worker import Host
from py_engine.errors import InputError, SessionError, StorageFullError
from py_engine.host.gpu import Gpu
from py_engine.host.store_native import FileStore
from py_engine.serve.engine import Engine
from py_engine.serve.sessions import _sealed
from tests import reference
from tests.answers import answer
from tests.conftest import Runner

PROMPT = [(11 * i + 5) % 250 for i in range(40)]
FOLLOW = [7, 8, 9]
HYBRID = "qwen3.5-mlx4-g64"


@pytest.fixture
def home(stores: Path) -> Path:
    """The folder of saved sessions."""
    return stores / "sessions"


@pytest.fixture(scope="module")
def one_gpu(open_software_gpu: Callable[..., Gpu]) -> Gpu:
    """For tests that do not depend on the host."""
    return open_software_gpu("wgpu")


@pytest.fixture(scope="module")
def engine(one_gpu: Gpu, run: Runner) -> Iterator[Engine]:
    loaded = load(one_gpu, run)
    yield loaded
    run(loaded.close())


@pytest.fixture
def saved(engine: Engine, run: Runner) -> list[int]:
    """Saves a session "s" of a prompt and an answer. The ids that the model has seen in it."""
    run(engine.logits([1]))
    answer(engine, run, PROMPT, 4)
    run(engine.save_session("s"))
    return list(engine._loaded.decoder.prefix.ids)


def load(gpu: Gpu, run: Runner, name: str = HYBRID, **options: Any) -> Engine:
    settings: dict[str, Any] = {"dtype": "f32", "context": 256, "context_classes": (32, 96)}
    loaded: Engine = run(Engine.load(str(reference.folder(name)), gpu=gpu, **settings | options))
    return loaded


@pytest.mark.parametrize(
    "host, name",
    [
        ("wgpu", HYBRID),
        ("wgpu", "gemma3-mlx4-g64"),
        pytest.param("dawn", "lfm2-mlx4-g64", marks=pytest.mark.slow),
    ],
)
def test_bitwise_as_if_it_had_never_ended(
    open_software_gpu: Callable[..., Gpu], run: Runner, host: str, name: str, home: Path
) -> None:
    """Logits after more tokens, and a long answer that makes the cache grow. The run that was saved continues
    undisturbed."""
    gpu = open_software_gpu(host)
    engine = load(gpu, run, name)
    first = answer(engine, run, PROMPT, 9)
    kept = run(engine.save_session("a chat / of: mine…"))
    ids = [*PROMPT, *first.tokens[:-1]]
    assert (kept.tokens, kept.name) == (len(ids), "a chat / of: mine…")
    assert kept.nbytes == sum(f.stat().st_size for f in home.rglob("*.bin"))
    follow = [*ids, *FOLLOW]
    logits = bytes(run(engine.logits(follow, reuse=True)))
    tokens = answer(engine, run, [*follow, 1], 90).tokens
    run(engine.close())

    engine = load(gpu, run, name)
    answer(engine, run, [5, 4, 3], 2)
    assert run(engine.restore_session("a chat / of: mine…")) == kept
    assert engine.info()["context"]["used"] == len(ids)
    assert bytes(run(engine.logits(follow, reuse=True))) == logits
    assert engine._loaded.decoder.prefilled == len(FOLLOW)
    assert answer(engine, run, [*follow, 1], 90).tokens == tokens
    run(engine.close())


def test_snapshots_come_along(engine: Engine, run: Runner) -> None:
    """The state has run past an answer that was stopped, so the session must also continue from the snapshot after
    the prompt."""

    async def stopped() -> Any:
        generation = engine.generate(PROMPT, max_tokens=100, temperature=0.0, ignore_eos=True)
        async for _ in generation:
            generation.stop()
        return await generation

    run(engine.logits([1]))
    got = run(stopped())
    run(engine.save_session("s"))
    follow = [*PROMPT, *got.tokens, 9]
    whole = answer(engine, run, follow, 5).tokens
    answer(engine, run, [4, 4], 1)
    run(engine.restore_session("s"))
    cut = answer(engine, run, follow, 5)
    assert (cut.cached_tokens, cut.tokens) == (len(PROMPT), whole)


def test_saved_anew_listed_and_deleted(engine: Engine, run: Runner, home: Path) -> None:
    assert run(engine.list_sessions()) == []
    answer(engine, run, PROMPT, 4)
    first = run(engine.save_session("one"))
    run(engine.save_session("two"))
    answer(engine, run, [2, *PROMPT[:10]], 2)
    again = run(engine.save_session("one"))
    assert again.tokens == 12 < first.tokens
    assert len(list(home.rglob("*.bin"))) == 2, "the older bytes are gone"
    assert [info.name for info in run(engine.list_sessions())] == ["one", "two"]
    (home / "two" / "session.json").write_text("{")
    assert run(engine.list_sessions()) == [again]
    run(engine.delete_session("two"))
    run(engine.delete_session("never saved"))
    assert not (home / "two").exists()
    run(engine.restore_session("one"))
    assert engine._loaded.decoder.prefix.ids[:11] == [2, *PROMPT[:10]]


def test_over_the_worker(saved: list[int], engine: Engine, run: Runner) -> None:
    async def nothing() -> None:
        pass

    async def ask() -> list[Any]:
        heard: list[dict[str, Any]] = []
        host = Host(heard.append, nothing)
        host._models._engines[""] = engine
        for kind, fields in (
            ("list", {}),
            ("restore", {"name": "s"}),
            ("save", {"name": "t"}),
            ("delete", {"name": "s"}),
            ("restore", {"name": "s"}),
            ("list", {}),
        ):
            host.receive({"type": f"session_{kind}", "id": len(heard), **fields})
            await asyncio.gather(*host._tasks)
        return heard

    first, restored, other, deleted, gone, last = run(ask())
    assert first["value"] == [restored["value"]]
    assert (restored["value"]["name"], restored["value"]["tokens"]) == ("s", len(saved))
    assert other["value"] == restored["value"] | {
        "name": "t", "saved_at": other["value"]["saved_at"]
    }  # fmt: skip
    assert deleted["value"] is None
    assert (gone["status"], gone["error_type"]) == ("error", "SessionError")
    assert last["value"] == [other["value"]]


def test_an_empty_session(engine: Engine, run: Runner) -> None:
    engine._loaded.decoder.prefix.forget()
    assert run(engine.save_session("nothing")).tokens == 0
    whole = answer(engine, run, PROMPT, 3).tokens
    assert run(engine.restore_session("nothing")).tokens == 0
    got = answer(engine, run, PROMPT, 3)
    assert (got.cached_tokens, got.tokens) == (0, whole)


def refused(engine: Engine, run: Runner, match: str, name: str = "s") -> None:
    """The session is refused, and the engine keeps the state that it had."""
    answer(engine, run, [9, 8, 7, 6], 3)
    before = engine.info()["context"], list(engine._loaded.decoder.prefix.ids)
    with pytest.raises(SessionError, match=match):
        run(engine.restore_session(name))
    assert (engine.info()["context"], engine._loaded.decoder.prefix.ids) == before
    follow = [*before[1], 3]
    got = answer(engine, run, follow, 4)
    assert got.cached_tokens == len(before[1])
    run(engine.logits([1]))
    assert answer(engine, run, follow, 4).tokens == got.tokens


def test_another_load(saved: list[int], one_gpu: Gpu, run: Runner) -> None:
    other = load(one_gpu, run, dtype="f16")
    refused(other, run, "its dtype is 'f32.*here it is 'f16")
    run(other.close())


def test_another_context(saved: list[int], one_gpu: Gpu, run: Runner) -> None:
    """A session goes into a KV cache of any size that holds its tokens."""
    other = load(one_gpu, run, context_classes=None)
    run(other.restore_session("s"))
    assert other._loaded.decoder.prefix.ids == saved
    other._loaded.decoder.state.context = len(saved) - 1
    with pytest.raises(SessionError, match=f"has {len(saved)} tokens, more than the context of"):
        run(other.restore_session("s"))
    run(other.close())


def test_another_revision_in_the_same_folder(one_gpu: Gpu, run: Runner, tmp_path: Path) -> None:
    """It has the same name and the same shapes, but other weights."""
    folder = tmp_path / "model"
    shutil.copytree(reference.folder(HYBRID), folder)

    def open_folder() -> Engine:
        loaded: Engine = run(Engine.load(str(folder), gpu=one_gpu, dtype="f32", context=64))
        return loaded

    first = open_folder()
    answer(first, run, PROMPT, 4)
    run(first.save_session("s"))
    run(first.close())
    file = folder / "model.safetensors"
    raw = bytearray(file.read_bytes())
    end = 8 + int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8:end])
    name = next(n for n in header if n.endswith("model.norm.weight"))
    start, stop = header[name]["data_offsets"]
    raw[end + start : end + stop] = bytes(stop - start)
    file.write_bytes(raw)
    second = open_folder()
    refused(second, run, "its weights is")
    run(second.close())


@pytest.mark.parametrize(
    "field, value",
    [
        ("model", "org/other@main"),
        ("version", "0.0.9"),
        ("layout", 0),
        ("dtype", "auto"),
        ("state", []),
        ("host", "browser"),
        ("device", {"vendor": "another"}),
        ("features", ["shader-f16"]),
        ("kernels", "0" * 64),
    ],
)
def test_from_somewhere_else(
    saved: list[int], engine: Engine, run: Runner, home: Path, field: str, value: Any
) -> None:
    """A whole session of another model, device, version or tuning is sound, but refused."""
    file = home / "s" / "session.json"
    session = json.loads(file.read_text())["session"]
    session["key"][field] = value
    file.write_bytes(_sealed(session))
    refused(engine, run, f"its {field} is")


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-4])


def flip(file: Path) -> None:
    raw = bytearray(file.read_bytes())
    raw[len(raw) // 2] ^= 1
    file.write_bytes(raw)


def forge(file: Path) -> None:
    """Replace the tokens, and keep the bytes of the state."""
    header = json.loads(file.read_text())
    header["session"]["ids"][0] += 1
    file.write_text(json.dumps(header))


def reseal(**changes: Any) -> Callable[[Path], None]:
    """Replace the header, with a correct checksum."""

    def damage(file: Path) -> None:
        file.write_bytes(_sealed(json.loads(file.read_text())["session"] | changes))

    return damage


@pytest.mark.parametrize(
    "pattern, damage",
    [
        ("*.bin", truncate),
        ("*.bin", flip),
        ("*.bin", Path.unlink),
        ("session.json", truncate),
        ("session.json", forge),
        ("session.json", lambda f: f.write_bytes(b"\xff\xfe[]")),
        ("session.json", lambda f: f.write_text("[1]")),
        ("session.json", lambda f: f.write_text('{"session": {}, "sha256": "0"}')),
        ("session.json", lambda f: f.write_bytes(_sealed([]))),  # type: ignore[arg-type]
        ("session.json", lambda f: f.write_bytes(_sealed({"key": {}}))),
        ("session.json", reseal(ids=["x"])),
        ("session.json", reseal(snapshots=[9999])),
        ("session.json", reseal(snapshots=list(range(1, 30)))),
        ("session.json", reseal(data="t/of-another-session.bin")),
        ("session.json", reseal(lives=False)),
    ],
)
def test_damaged(
    saved: list[int], engine: Engine, run: Runner, home: Path, pattern: str, damage: Any
) -> None:
    (file,) = home.rglob(pattern)
    damage(file)
    refused(engine, run, "damaged")
    refused(engine, run, "no session 'other'", "other")


def test_a_full_disk_keeps_the_old_session(
    saved: list[int], engine: Engine, run: Runner, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {f: f.read_bytes() for f in home.rglob("*.*") if f.is_file()}
    answer(engine, run, [2, *PROMPT[:5]], 2)

    async def full(*_: Any) -> None:
        raise StorageFullError("no room")

    with monkeypatch.context() as patch:
        patch.setattr(FileStore, "flush", full)
        with pytest.raises(StorageFullError):
            run(engine.save_session("s"))
    assert {f: f.read_bytes() for f in home.rglob("*.*") if f.is_file()} == before
    assert run(engine.restore_session("s")).tokens == len(saved)


@pytest.mark.parametrize("name", ["", "x" * 81, "\ud800", 5])
def test_bad_names(engine: Engine, run: Runner, name: Any) -> None:
    for method in (engine.save_session, engine.restore_session, engine.delete_session):
        with pytest.raises(InputError, match="name"):
            run(method(name))


@pytest.mark.parametrize("name", ["..", ".", "a/../../b", "CON:", "ü 漢 .bin"])
def test_odd_names_stay_inside(engine: Engine, run: Runner, home: Path, name: str) -> None:
    run(engine.save_session(name))
    assert [info.name for info in run(engine.list_sessions())] == [name]
    run(engine.restore_session(name))
    run(engine.delete_session(name))
    assert run(engine.list_sessions()) == []
    assert not list(home.parent.rglob("*.json"))
