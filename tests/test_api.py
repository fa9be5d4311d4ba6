"""The public names: they are listed and typed, the same under both names, and importable from a wheel in a fresh
environment.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from collections.abc import Iterator
from dataclasses import fields
from importlib import import_module
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin

import pytest
from packaging.requirements import Requirement

import py_engine
from py_engine.abort import Abort
from py_engine.errors import EngineError
from py_engine.generate.answer import Answer, Generation
from py_engine.generate.options import Options
from py_engine.generate.sampling import Sampling
from py_engine.generate.stream import Delta
from py_engine.tasks import tasks
from py_engine.tasks.task import Request
from tests.conftest import Runner

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
DEPENDENCIES = [Requirement(text) for text in PROJECT["dependencies"]]

# A user's program. Each wrong line has a comment with a word of the error that mypy must give for it.
PROGRAM = """\
import asyncio
import jerboa
import py_engine
from py_engine import Engine

messages = [{"role": "user", "content": "Hello"}]

async def main() -> None:
    async with await Engine.load("org/name", context=512) as engine:
        answer = await engine.chat(messages, temperature=0, stop=["."], max_tokens=None)
        print(answer.text, answer.timings.decode_tps, answer.tool_calls[0]["function"]["name"])
        async for delta in engine.complete("a", top_p=0.9):
            print(delta.text + delta.reasoning)
        engine.chat(messages, temprature=0)  # WRONG: temprature
        engine.complete("a", max_token=1)  # WRONG: max_token
        engine.generate([1], top_k="many")  # WRONG: top_k
        engine.chatt(messages)  # WRONG: chatt
        print(answer.texts)  # WRONG: texts
        print(answer.tool_calls[0]["functon"])  # WRONG: functon
        print(engine.info)
        vectors: py_engine.Embeddings = await engine.ask(py_engine.EmbedRequest(["a"]))
        generation: py_engine.Generation = engine.ask(py_engine.ChatRequest(messages, seed=1))
        generation.dropt  # WRONG: dropt
    await Engine.load("org/name", contxt=5)  # WRONG: contxt

with jerboa.load("org/name", dtype="q4") as model:
    for delta in model.chat(messages, max_tokens=5):
        print(delta.text, delta.tokens)
    print(model.complete("a").text, model.chat(messages).result().finish_reason)
    model.chat(messages, max_tokns=5)  # WRONG: max_tokns
    print(model.embed(["a"]).result().embeddings[0][0])
    model.embed(["a"], dimension=64)  # WRONG: dimension
    model.complete("a").txt  # WRONG: txt
jerboa.load("org/name", contxt=5)  # WRONG: contxt
try:
    asyncio.run(main())
except jerboa.EngineError as error:
    print(error.type, error.typ)  # WRONG: typ
jerboa.Engin  # WRONG: Engin
py_engine.loads  # WRONG: loads
version: str = jerboa.__version__
same: type[py_engine.Engine] = jerboa.Engine
"""


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of a fresh environment that has the wheel. It finds dependencies in the current environment."""
    place = tmp_path_factory.mktemp("installed")
    build = (sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(place))
    done = subprocess.run(build, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (wheel,) = place.glob("*.whl")
    run = {"check": True, "capture_output": True, "timeout": 300, "cwd": place}
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", "venv"], **run)  # type: ignore[call-overload]
    python = place / "venv" / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "-q", "--no-deps"]
    subprocess.run([*pip, "--no-index", str(wheel)], **run)  # type: ignore[call-overload]
    (packages,) = (place / "venv" / "lib").glob("python*/site-packages")
    # This path comes after the environment's own packages, so that the wheel's py_engine is found first.
    (packages / "shared.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return python


def fresh(python: Path, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run it outside the checkout."""
    kept = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    return subprocess.run(
        [str(python), *words], cwd=python.parent, env={**kept, **environment},
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip


def test_the_public_names_are_these() -> None:
    assert py_engine.__all__ == sorted(py_engine.__all__)
    assert py_engine.__all__ == sorted([*py_engine._NAMES, "__version__"])
    assert set(py_engine.__all__) <= set(dir(py_engine))
    for name in py_engine.__all__:
        assert getattr(py_engine, name) is not None
    with pytest.raises(AttributeError, match="'py_engine' has no attribute 'Engin'"):
        py_engine.Engin  # type: ignore[attr-defined]  # noqa: B018


def test_every_error_that_callers_may_catch_is_public() -> None:
    errors = import_module("py_engine.errors")
    raised = [
        name
        for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, EngineError)
    ]
    assert len(raised) > 10
    assert [name for name in raised if name not in py_engine.__all__] == []


def test_requests_and_what_they_give_are_public() -> None:
    """`Engine.ask` takes the request of each task; its type parameter is the type of the answer."""

    def named(kind: Any) -> Iterator[str]:
        if getattr(kind, "__module__", "").startswith("py_engine"):
            yield (get_origin(kind) or kind).__name__
        for part in get_args(kind):
            yield from named(part)

    for task in tasks().values():
        (works,) = [
            get_args(base)[0]
            for kind in task.request.__mro__
            for base in vars(kind).get("__orig_bases__", ())
            if get_origin(base) is Request and not isinstance(get_args(base)[0], TypeVar)
        ]
        names = {task.request.__name__, *named(works)}
        assert len(names) > 1
        assert names - {*py_engine.__all__} == set()


def test_options_are_typed_as_they_are_taken() -> None:
    taken = {f.name for f in fields(Sampling)} - {"stop_ids"}
    assert set(Options.__annotations__) == taken | {"max_tokens", "stop", "ignore_eos"}


def test_small_commands_start_without_the_engine() -> None:
    code = (
        "import sys, py_engine; from py_engine.errors import EngineError; dir(py_engine)\n"
        "loaded = [m for m in sys.modules if m.startswith('py_engine.serve') or m in ('wgpu', 'jinja2')]\n"
        "print(loaded)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


def test_objects_say_what_they_are(run: Runner) -> None:
    assert repr(Delta("a", 1)) == "Delta(text='a', tokens=1)"
    assert repr(Delta("", 2, "stop", "hm")) == (
        "Delta(text='', tokens=2, finish_reason='stop', reasoning='hm')"
    )
    shown = repr(Answer("word " * 1000, list(range(2000)), 7, finish_reason="length"))
    assert len(shown) < 400
    assert "finish_reason='length', prompt_tokens=7, completion_tokens=2000" in shown
    abort = Abort()
    assert repr(abort) == "<Abort not set>"
    abort.set()
    assert repr(abort) == "<Abort set>"

    async def states() -> list[str]:
        async def work(generation: Generation) -> None:
            generation.emit(Delta("a", 3))
            generation.finish(Answer("a"))

        generation = Generation(work)
        before = repr(generation)
        await generation
        return [before, repr(generation)]

    assert run(states()) == [
        "<Generation waiting, 0 tokens>",
        "<Generation done: stop, 3 tokens>",
    ]


def test_both_names_give_the_same_objects(installed: Path) -> None:
    code = """
import jerboa, py_engine
assert jerboa.Engine is py_engine.Engine and jerboa.load is py_engine.load
assert jerboa.__all__ == py_engine.__all__ and set(jerboa.__all__) <= set(dir(jerboa))
assert issubclass(jerboa.HubError, jerboa.EngineError)
assert py_engine.__file__.startswith(jerboa.__file__.removesuffix('jerboa/__init__.py')), py_engine
from jerboa import Engine, EngineError
try: jerboa.Engin
except AttributeError as error: print(error)
print(jerboa.__version__)
"""
    done = fresh(installed, "-W", "error", "-c", code)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "module 'py_engine' has no attribute 'Engin'",
        py_engine.__version__,
    ]


def test_the_command_has_one_name(installed: Path) -> None:
    script = installed.parent / "jerboa"
    assert fresh(script, "--version").stdout == f"jerboa {py_engine.__version__}\n"
    for words in (["-m", "jerboa"], ["-m", "py_engine"]):
        assert fresh(installed, *words, "--version").stdout == f"jerboa {py_engine.__version__}\n"
        usage = fresh(installed, *words, "generate", "--help").stdout
        assert usage.startswith("usage: jerboa generate ")


def test_misspelt_names_are_found_by_mypy(installed: Path, tmp_path: Path) -> None:
    file = tmp_path / "program.py"
    file.write_text(PROGRAM)
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--python-executable", str(installed),
         "--cache-dir", str(tmp_path / "cache"), "--no-error-summary", file.name],
        cwd=tmp_path, capture_output=True, text=True, timeout=300,
        env={k: v for k, v in os.environ.items() if k not in ("MYPYPATH", "PYTHONPATH")},
    )  # fmt: skip
    found = re.findall(r"^program\.py:(\d+): error: (.*)$", done.stdout, re.MULTILINE)
    wrong = {
        number: line.partition("# WRONG: ")[2]
        for number, line in enumerate(PROGRAM.splitlines(), 1)
        if "# WRONG: " in line
    }
    assert sorted({int(number) for number, _ in found}) == sorted(wrong), done.stdout + done.stderr
    for number, message in found:
        assert f'"{wrong[int(number)]}"' in message, message


def test_the_wheel_asks_for_ranges_and_a_browser_for_less(installed: Path) -> None:
    (wheel,) = installed.parents[2].glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
        lines = archive.read(name).decode().splitlines()
    asked = [
        Requirement(line.partition(": ")[2]) for line in lines if line.startswith("Requires-Dist")
    ]
    for requirement in asked:
        assert "==" not in str(requirement.specifier), requirement
    base = [r for r in asked if "extra" not in str(r.marker or "")]
    assert {r.name for r in base} == {"jinja2", "tokenizers", "wgpu", "wgpudawn"}
    browser = [r for r in base if not r.marker or r.marker.evaluate({"sys_platform": "emscripten"})]
    assert [r.name for r in browser] == ["jinja2"]
    assert (
        len([r for r in base if not r.marker or r.marker.evaluate({"sys_platform": "linux"})]) == 4
    )


def test_dev_installs_one_exact_version_of_everything_that_is_named() -> None:
    pinned = {}
    for line in (ROOT / "devtools" / "constraints.txt").read_text().splitlines():
        if line and not line.startswith("#"):
            name, _, version = line.partition("==")
            pinned[name] = version
    extras = PROJECT["optional-dependencies"].values()
    named = [*DEPENDENCIES, *(Requirement(text) for extra in extras for text in extra)]
    for requirement in named:
        if requirement.name != "jerboa":
            assert requirement.specifier.contains(pinned[requirement.name]), requirement
    assert set(pinned) == {r.name for r in named} - {"jerboa"}
    assert "CONSTRAINTS.read_bytes()" in (ROOT / "dev").read_text()
