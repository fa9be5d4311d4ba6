"""The arrows of ARCHITECTURE.md: each folder of the engine imports only from itself and from those before it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ENGINE = Path(__file__).parent.parent / "py_engine"
ORDER = (
    "host graph ops sources kept weights blocks models checks inputs pictures "
    "generate encode tasks serve diagnostics convert cli"
).split()
ANYWHERE = {"errors", "arguments", "settings", "telemetry", "abort", "work", "version"}
HOST_ONLY = {"js", "pyodide", "pyodide_js", "wgpu", "wgpudawn"}
NEVER = {"numpy", "app", "devtools", "tests"}
NUMPY_TOOLS = {  # used by the command-line converter, not by the engine
    "convert/config.py",
    "convert/gguf_blocks.py",
    "convert/packing.py",
    "convert/tensors.py",
}
FILES = sorted(ENGINE.rglob("*.py"))


def imported(file: Path) -> Iterator[str]:
    """Full names of everything that a file imports, also inside functions; relative imports are made absolute."""
    package = ["py_engine", *file.relative_to(ENGINE).parts[:-1]]
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            yield from (f"{module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(ENGINE)))
def test_file_imports_only_from_what_stands_before_it(file: Path) -> None:
    folder = "" if file.parent == ENGINE else file.relative_to(ENGINE).parts[0]
    # __init__ and __main__ may use everything
    front_door = not folder and file.stem not in ANYWHERE
    allowed = {*ANYWHERE, *(ORDER[: ORDER.index(folder) + 1] if folder else [])}
    wrong = []
    for name in imported(file):
        top, *rest = name.split(".")
        if top == "py_engine":
            if rest and rest[0] not in allowed and not front_door:
                wrong.append(name)
        elif top == "numpy" and str(file.relative_to(ENGINE)) in NUMPY_TOOLS:
            continue
        elif top in HOST_ONLY and folder != "host" or top in NEVER:
            wrong.append(name)
    assert not wrong, f"{file.relative_to(ENGINE.parent)} may not import {', '.join(wrong)}"


def test_every_folder_has_its_place_in_the_order() -> None:
    folders = {f.relative_to(ENGINE).parts[0] for f in FILES if f.parent != ENGINE}
    assert folders <= set(ORDER)
    assert len(FILES) > len(ORDER)


MAX_LINES, MAX_ARGUMENTS = 400, 12
MANY_ARGUMENTS = {  # function: why it has more
    "serve/engine.py load": "each is an option that a caller gives by name, and type checkers have to know them",
}


def arguments(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """How many arguments a function has, without self or cls."""
    given = function.args
    names = [a.arg for a in (*given.posonlyargs, *given.args, *given.kwonlyargs)]
    return len(names) - (names[:1] in (["self"], ["cls"]))


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(ENGINE)))
def test_files_and_signatures_are_short(file: Path) -> None:
    name, text = str(file.relative_to(ENGINE)), file.read_text()
    assert len(text.splitlines()) <= MAX_LINES
    long = {
        f"{name} {node.name}"
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and arguments(node) > MAX_ARGUMENTS
    }
    assert long == {function for function in MANY_ARGUMENTS if function.split()[0] == name}
