"""The arrows of ARCHITECTURE.md: each folder of the engine imports only from itself and from those before it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ENGINE = Path(__file__).parent.parent / "py_engine"
ORDER = (
    "host graph ops sources kept weights blocks models checks inputs "
    "generate encode tasks serve diagnostics convert cli"
).split()
ANYWHERE = {"errors", "arguments", "settings", "telemetry", "abort", "work", "version"}
HOST_ONLY = {"js", "pyodide", "pyodide_js", "wgpu", "wgpudawn"}
NEVER = {"numpy", "app", "devtools", "tests"}
NUMPY_TOOLS = {  # the command-line converter, not the engine
    "convert/config.py",
    "convert/gguf_blocks.py",
    "convert/packing.py",
    "convert/tensors.py",
}
FILES = sorted(ENGINE.rglob("*.py"))


def imported(file: Path) -> Iterator[str]:
    """Full names of everything a file imports, inside functions too; relative imports made absolute."""
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
    front_door = not folder and file.stem not in ANYWHERE  # __init__, __main__: may use everything
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
# These are longer and must not grow. They wait to be cut: each holds more than one subject.
LONG_FILES = {  # lines
    "host/gpu_browser.py": 449,
    "host/gpu_native.py": 632,
    "inputs/tokenizer.py": 610,
    "kept/writer.py": 487,
}
# Every one is an option that a caller gives by name.
MANY_ARGUMENTS = {"ops/matvec.py matvec", "serve/engine.py load"}


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(ENGINE)))
def test_files_and_signatures_are_short(file: Path) -> None:
    name, text = str(file.relative_to(ENGINE)), file.read_text()
    assert len(text.splitlines()) <= LONG_FILES.get(name, MAX_LINES)
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            given = [
                a.arg for a in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)
            ]
            count = len(given) - (given[:1] in (["self"], ["cls"]))
            assert count <= MAX_ARGUMENTS or f"{name} {node.name}" in MANY_ARGUMENTS, node.name
