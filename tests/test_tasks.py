"""A task is one file: its method, its message and its subcommand follow from it. A family is one file too."""

from __future__ import annotations

import asyncio
import inspect
import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from py_engine.errors import InputError
from py_engine.generate.answer import Generation
from py_engine.generate.options import Options
from py_engine.host.gpu import Gpu
from py_engine.serve.engine import Engine
from py_engine.serve.sync import SyncEngine
from py_engine.tasks import tasks, tasks_of
from py_engine.tasks.chat import ChatRequest
from py_engine.tasks.complete import CompleteRequest
from py_engine.tasks.fields import fields_of, made, plain
from py_engine.tasks.loaded import Loaded
from tests import reference
from tests.conftest import Runner, software_adapter

ROOT = Path(__file__).parents[1]
FOLDER = reference.folder("qwen2-mlx4-g64")

# A whole task that counts the tokens of texts, with one event for each text. Nothing in the engine knows it.
TASK = '''
"""Task `measure`: how many tokens texts have."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Annotated, Any, Literal

from py_engine.errors import InputError
from py_engine.tasks.task import Job, Request, Task
from py_engine.work import Work


@dataclass(frozen=True)
class Measured:
    """One text: its tokens."""

    num_tokens: int


@dataclass(frozen=True)
class Sum:
    """All texts: their tokens, as a sum of the kind that was asked for."""

    total_tokens: int
    kind: str


@dataclass(frozen=True)
class MeasureRequest(Request[Work[Measured, Sum]]):
    """Texts to measure."""

    texts: Annotated[Sequence[str], "the texts to measure"]
    _: KW_ONLY
    kind: Annotated[Literal["all", "most"], "the sum, or the longest one's"] = "all"
    weights: Annotated[Sequence[float] | None, "a factor for each text"] = None
    silent: Annotated[bool, "no events"] = False


class Measure(Task[MeasureRequest]):
    """Measure texts in tokens.

    More about it.
    """

    name, request = "measure", MeasureRequest

    def lacks(self, loaded: Any) -> str | None:
        return None if loaded.tokenizer else "a tokenizer"

    def prepare(self, loaded: Any, request: MeasureRequest) -> Job[Measured, Sum]:
        if not all(isinstance(text, str) and text for text in request.texts):
            raise InputError("texts: an empty one has no tokens")
        return Measuring(request)


class Measuring(Job[Measured, Sum]):
    """One run."""

    def __init__(self, request: MeasureRequest) -> None:
        self.asked, self.counts = request, []

    async def run(self, loaded: Any, work: Work[Measured, Sum]) -> Sum:
        for place, text in enumerate(self.asked.texts):
            factor = self.asked.weights[place] if self.asked.weights else 1
            self.counts.append(round(loaded.tokenizer.count_tokens(text) * factor))
            if not self.asked.silent:
                work.emit(Measured(self.counts[-1]))
        return Sum((max if self.asked.kind == "most" else sum)(self.counts), self.asked.kind)
'''
# A whole family: Qwen2 under another name.
FAMILY = '''
"""Qwen2 under another name."""

from py_engine.models.qwen2 import build as build

ALIASES = ("toy_text",)
'''
# Adds the folders of the toy files to those of the engine, then runs the program that follows.
BESIDE = """
import sys, py_engine.models, py_engine.tasks
py_engine.models.__path__.append(sys.argv[1] + "/models")
py_engine.tasks.__path__.append(sys.argv[1] + "/tasks")
"""


@pytest.fixture(scope="module")
def toys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("toys")
    for folder, text in (("tasks", TASK), ("models", FAMILY)):
        (place / folder).mkdir()
        (place / folder / ("measure.py" if folder == "tasks" else "toy.py")).write_text(text)
    shutil.copytree(FOLDER, place / "checkpoint")
    config = json.loads((FOLDER / "config.json").read_text())
    (place / "checkpoint" / "config.json").write_text(
        json.dumps({**config, "model_type": "toy_text"})
    )
    return place


def python(toys: Path, code: str, *words: str, expect: int = 0) -> str:
    """The stdout of a program that has the toy files beside the engine."""
    with software_adapter("wgpu"):
        done = subprocess.run(
            [sys.executable, "-c", BESIDE + code, str(toys), *words], cwd=ROOT, capture_output=True,
            text=True, timeout=300, env={**os.environ, "JERBOA_HOST": "wgpu"},
        )  # fmt: skip
    assert done.returncode == expect, done.stderr[-3000:]
    return done.stdout


COMMAND = "from py_engine.__main__ import main; sys.exit(main(sys.argv[2:]))"


def test_a_new_task_and_family_are_a_subcommand(toys: Path) -> None:
    told = python(
        toys, COMMAND, "measure", str(toys / "checkpoint"), "abc", "de", "--kind", "most",
        "--weights", "2,1", "--context", "64", "--json",
    )  # fmt: skip
    count = 2 * len(reference_ids("abc"))
    assert json.loads(told.splitlines()[-1]) == {"total_tokens": count, "kind": "most"}
    lines = python(toys, COMMAND, "measure", str(toys / "checkpoint"), "abc", "--context", "64")
    first, *rest = lines.splitlines()
    assert json.loads(first) == {"status": "event", "num_tokens": count // 2}
    assert json.loads("\n".join(rest)) == {"total_tokens": count // 2, "kind": "all"}


def reference_ids(text: str) -> list[int]:
    from py_engine.inputs.tokenizer import Tokenizer

    async def ids() -> list[int]:
        tokenizer = await Tokenizer.load((FOLDER / "tokenizer.json").read_bytes())
        return tokenizer.encode(text)

    return asyncio.run(ids())


def test_the_example_of_the_docs_works(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "adding-a-task.md").read_text()
    code = page.partition("```py\n")[2].partition("```\n")[0]
    for folder in ("tasks", "models"):
        (tmp_path / folder).mkdir()
    (tmp_path / "tasks" / "measure.py").write_text(code)
    told = python(tmp_path, COMMAND, "measure", str(FOLDER), "abc", "d", "--most", "--json")
    assert json.loads(told.splitlines()[-1]) == {"total_tokens": len(reference_ids("abc"))}


def test_its_help_has_every_field(toys: Path) -> None:
    shown = " ".join(python(toys, COMMAND, "measure", "--help").split())
    assert "Measure texts in tokens. More about it." in shown
    for part in (
        "TEXT [TEXT ...]",
        "the texts to measure",
        "--kind {all,most}",
        "a factor for each",
    ):
        assert part in shown, part
    assert "--silent" in shown and "--dtype" in shown and "--json" in shown
    assert "measure Measure texts in tokens." in " ".join(python(toys, COMMAND, "--help").split())
    wrong = python(toys, COMMAND, "measure", "m", "a", "--kind", "least", "--json", expect=2)
    assert "least" in json.loads(wrong)["error"]["message"]
    wrong = python(toys, COMMAND, "measure", "m", "a", "--weights", "1,x", "--json", expect=2)
    assert "1,x" in json.loads(wrong)["error"]["message"]


METHOD = """
import inspect
from py_engine import Engine, InputError, load
from py_engine.serve.sync import SyncEngine
assert "measure" in dir(Engine) and "measure" in dir(SyncEngine)
print(inspect.signature(Engine.measure))
print(inspect.getdoc(Engine.measure))
with load(sys.argv[2], context=64) as model:
    assert "measure" in model.tasks and model.info()["tasks"] == model.tasks, model.tasks
    work = model.measure(["abc", "abc"])
    counts = [event.num_tokens for event in work]
    assert len(counts) == 2 and work.result().total_tokens == sum(counts), counts
    for wrong, call in (
        ("empty", lambda: model.measure([""])),
        ("kinds", lambda: model.measure(["a"], kinds="all")),
        ("request of a task", lambda: model.ask("measure")),
    ):
        try:
            call()
        except InputError as error:
            assert wrong in str(error), error
        else:
            raise SystemExit(wrong)
"""


def test_a_new_task_is_a_method(toys: Path) -> None:
    signature, *doc = python(toys, METHOD, str(toys / "checkpoint")).splitlines()
    assert signature.startswith("(self, texts:") and "*, kind:" in signature
    assert "='all'" in signature.replace(" ", "")
    assert doc[0] == "Measure texts in tokens." and "texts: the texts to measure" in doc


MESSAGE = """
import asyncio
from app.worker import Host

async def main():
    heard, done = [], asyncio.Event()
    def post(message):
        heard.append(message)
        if message["status"] in ("ready", "complete", "error", "result"):
            done.set()
    async def nothing(): ...
    host = Host(post, nothing)
    async def ask(**message):
        done.clear()
        host.receive(message)
        await asyncio.wait_for(done.wait(), 120)
        return heard[-1]
    options = {"context": 64, "self_check": False}
    assert (await ask(type="load", id=1, repo=sys.argv[2], options=options))["status"] == "ready"
    answer = await ask(type="measure", id=2, texts=["abc", "de"])
    assert [m["num_tokens"] for m in heard if m["status"] == "event"] and answer["id"] == 2
    print(answer)
    print((await ask(type="measure", texts=["abc"]))["totalTokens"])
    for wrong, fields in (("texts must be", {"texts": 5}), ("'txts'", {"texts": [], "txts": 1}),
                          ("'texts'", {}), ("one of all, most", {"texts": ["a"], "kind": "x"}),
                          ("empty", {"texts": [""]})):
        refused = await ask(type="measure", id=3, **fields)
        assert refused["error_type"] == "InputError" and wrong in refused["error"], refused
    await ask(type="unload", id=4)
asyncio.run(main())
"""


def test_a_new_task_is_a_message(toys: Path) -> None:
    answer, without_id = python(toys, MESSAGE, str(toys / "checkpoint")).splitlines()
    counts = [len(reference_ids(text)) for text in ("abc", "de")]
    assert f"'total_tokens': {sum(counts)}" in answer and "totalTokens" not in answer
    assert without_id == str(counts[0])


def test_tasks_and_families_are_found_in_a_zip(tmp_path: Path) -> None:
    """The page has the engine in a zip."""
    with zipfile.ZipFile(tmp_path / "engine.zip", "w") as archive:
        for file in (ROOT / "py_engine").rglob("*.py"):
            archive.write(file, file.relative_to(ROOT))
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); import py_engine; assert '.zip' in py_engine.__file__\n"
        "from py_engine.tasks import tasks; from py_engine.models import families\n"
        "print(*tasks()); print(*families())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "engine.zip")], cwd=tmp_path,
        capture_output=True, text=True, env={k: v for k, v in os.environ.items() if k != "PYTHONPATH"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    names, families = (line.split() for line in done.stdout.splitlines())
    assert names == [*tasks()] and {"chat", "complete"} <= {*names}
    assert {"qwen2", "gemma3", "gemma3_text", "qwen3_5_text"} <= {*families}


@pytest.mark.parametrize(
    ("kind", "file"), [("qwen3_5_text", "qwen3_5"), ("gemma3_text", "gemma3"), ("qwen3", "qwen3")]
)
def test_a_family_is_found_without_a_look_into_all(kind: str, file: str) -> None:
    code = (
        "import sys; from py_engine import models; found = models._family(sys.argv[1]).__name__\n"
        "print(found, *(name for name in sys.modules if name.startswith('py_engine.models.')))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, kind], capture_output=True, text=True, check=True, cwd=ROOT
    )
    found, *imported = done.stdout.split()
    assert found == f"py_engine.models.{file}" and found in imported
    # A file may build on another family's file, but not on these.
    assert not {f"py_engine.models.{name}" for name in ("bert", "lfm2", "phi3")} & {*imported}


@pytest.mark.parametrize("name", [*tasks()])
def test_every_task_is_well_made(name: str) -> None:
    task = tasks()[name]
    assert name.isidentifier() and inspect.getdoc(type(task))
    assert inspect.getdoc(task.request)
    for field in fields_of(task.request):
        assert field.help, f"{name}: {field.name} tells nobody what it is"


def test_the_methods_that_are_written_out_take_what_the_requests_have() -> None:
    options = {*Options.__annotations__}
    for kind, methods in (
        (ChatRequest, (Engine.chat, SyncEngine.chat)),
        (CompleteRequest, (Engine.complete, SyncEngine.complete)),
    ):
        wanted = {f.name for f in fields(kind)} - {"ids"}
        for method in methods:
            taken = {*inspect.signature(method).parameters} - {"self", "options"}
            assert taken | options == wanted, method
    for name in tasks():
        assert callable(getattr(Engine, name)) and callable(getattr(SyncEngine, name))


@pytest.fixture(scope="module")
def engine(open_software_gpu: Callable[..., Gpu], run: Runner) -> Iterator[Engine]:
    loaded: Engine = run(Engine.load(str(FOLDER), gpu=open_software_gpu("wgpu"), context=64))
    yield loaded
    run(loaded.close())


def test_chat_and_complete_are_asked_for_like_any_task(engine: Engine, run: Runner) -> None:
    async def ask() -> list[list[int]]:
        request = CompleteRequest("one two", max_tokens=5, temperature=0)
        ids = engine._loaded.tokenizer.encode("one two", add_special_tokens=True)
        works = [
            engine.ask(request),
            engine.complete("one two", max_tokens=5, temperature=0),
            engine.ask(CompleteRequest(ids=ids, max_tokens=5, temperature=0)),
        ]
        assert all(isinstance(work, Generation) for work in works)
        return [(await work).tokens for work in works]

    first, *others = run(ask())
    assert first and others == [first, first]


def test_speed_is_told_once(engine: Engine, run: Runner) -> None:
    async def ask() -> None:
        deltas = []
        work = engine.complete("one", max_tokens=6, temperature=0, ignore_eos=True)
        async for delta in work:
            deltas.append(delta)
        answer = await work
        assert [delta.num_tokens for delta in deltas][-1] == 6 and deltas[0].tps == 0
        assert deltas[-1].tps == round(answer.timings.decode_tps, 2) > 0

    run(ask())


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda e: e.ask(CompleteRequest("a", ids=[1])), "not both"),
        (lambda e: e.ask(CompleteRequest()), "prompt=None"),
        (lambda e: e.ask(ChatRequest([])), "messages"),
        (lambda e: e.ask(None), "request of a task"),
        (lambda e: e.ask(ChatRequest), "request of a task"),
        (lambda e: e.chat([], temprature=1), "Did you mean temperature"),
    ],
)
def test_what_is_wrong_is_told_at_once(engine: Engine, run: Runner, call: Any, told: str) -> None:
    async def ask() -> None:
        with pytest.raises(InputError, match=told):
            call(engine)

    run(ask())


class OtherKind:
    """A runtime that is not a decoder."""

    def memory(self) -> dict[str, int]:
        return {}

    def release(self) -> None: ...


@asynccontextmanager
async def made_another_kind(engine: Engine) -> AsyncIterator[Loaded]:
    """In this block the engine's model has a runtime that is not a decoder."""
    loaded = engine._loaded
    kept = loaded.runtime, loaded.generating
    loaded.runtime, loaded.generating = OtherKind(), None  # type: ignore[assignment]
    try:
        yield loaded
    finally:
        loaded.runtime, loaded.generating = kept


def test_a_model_of_another_kind_says_what_it_can_do(engine: Engine, run: Runner) -> None:
    async def ask() -> None:
        async with made_another_kind(engine) as loaded:
            assert not {"chat", "complete"} & {*engine.tasks}
            assert engine.info()["tasks"] == engine.tasks == tasks_of(loaded)
            assert "context" not in engine.info() and loaded.family in repr(engine)
            can = ", ".join(engine.tasks) or "nothing"
            for call in (
                lambda: engine.chat([{"role": "user", "content": "a"}]),
                lambda: engine.complete("a"),
                lambda: engine.generate([1]),
                lambda: engine.count_tokens([{"role": "user", "content": "a"}]),
            ):
                with pytest.raises(InputError, match=f"what it can do: {can}"):
                    call()
            assert engine.count_tokens("abc") > 0
            with pytest.raises(InputError, match="generate text"):
                await engine.logits([1])

    run(ask())


def test_requests_of_names() -> None:
    assert made(CompleteRequest, "a", top_k=3) == CompleteRequest("a", top_k=3)
    with pytest.raises(InputError, match="Did you mean top_k"):
        made(CompleteRequest, "a", topk=3)
    assert plain({"rows": [memoryview(b"\0\0\x80?").cast("f")], "t": (1,)}) == {
        "rows": [[1.0]],
        "t": [1],
    }
