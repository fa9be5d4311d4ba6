"""docs/settings.md names every setting that the source reads, and no others."""

from __future__ import annotations

import argparse
import ast
import re
from pathlib import Path

import pytest

from py_engine.cli.parser import parser

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "settings.md").read_text(encoding="utf-8")
OWN = re.compile(r"""["'`]((?:JERBOA|HF|HUGGINGFACE)_[A-Z_]+[A-Z])["'`]""")
# Settings that the source reads under a name that is not ours.
READ = re.compile(r"""(?:environ(?:\.get\(|\[)|\benv\(|\benv\.get\()\s*["']([A-Za-z_]+)["']""")
ELSEWHERE = {"https_proxy", "no_proxy"}  # read by the standard library


def named(heading: str) -> set[str]:
    """The first column of the tables below a second-level heading."""
    section = re.search(rf"^## {heading}\n(.*?)(?=^## |\Z)", PAGE, re.M | re.S)
    assert section, heading
    return set(re.findall(r"^\| `([^`]+)` \|", section[1], re.M))


def sources(*patterns: str) -> dict[Path, str]:
    found = [path for pattern in patterns for path in ROOT.glob(pattern) if path.is_file()]
    assert found
    return {path: path.read_text(encoding="utf-8") for path in found}


PROGRAM = ("py_engine/**/*.py", "app/*.py", "public/*.mjs", "devtools/*.py", "dev")
TESTS = ("conftest.py", "tests/conftest.py", "tests_e2e/conftest.py", "tests_e2e/webkitgtk_window.py",
    "tests/models/test_real_models.py")  # fmt: skip


def test_environment_variables() -> None:
    everything = sources(*PROGRAM, *TESTS)
    read = {
        name for text in everything.values() for name in [*OWN.findall(text), *READ.findall(text)]
    }
    listed = named("Environment variables")
    assert len(listed) > 20
    assert read - listed == set(), "read, and not in docs/settings.md"
    assert listed - read - ELSEWHERE == set(), "in docs/settings.md, and read nowhere"
    for name in ELSEWHERE:
        assert any(name in text for text in everything.values())


def test_parameters_of_the_address() -> None:
    text = (ROOT / "app" / "page.py").read_text(encoding="utf-8")
    read = set(re.findall(r'\basked\("(\w+)"\)|\bquery\.(?:get|has)\("(\w+)"\)', text))
    names = {name for pair in read for name in pair if name}
    for group in re.findall(r"for name in \(([^)]*)\):\n\s+\w+ = asked\(name\)", text):
        names |= set(re.findall(r'"(\w+)"', group))
    assert names == named("The page's address")


def constants(tree: ast.Module) -> dict[str, str]:
    """The text constants of a module, by name."""
    found: dict[str, str] = {}
    for node in tree.body:
        if isinstance(node, ast.Assign):
            target, value = node.targets[0], node.value
            pairs = (
                zip(target.elts, value.elts, strict=True)
                if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple)
                else [(target, value)]
            )
            for name, text in pairs:
                if isinstance(name, ast.Name) and isinstance(text, ast.Constant):
                    found[name.id] = str(text.value)
    return found


def test_keys_of_local_storage() -> None:
    keys: set[str] = set()
    for text in sources("app/*.py").values():
        tree = ast.parse(text)
        texts = constants(tree)
        for node in ast.walk(tree):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
                continue
            if ast.unparse(node.func) not in ("storage.read", "storage.write", "self._keep"):
                continue
            key = node.args[0]
            key = key.left if isinstance(key, ast.BinOp) else key
            if isinstance(key, ast.Constant):
                keys.add(str(key.value))
            elif isinstance(key, ast.Name) and key.id in texts:
                keys.add(texts[key.id])
    assert keys == named("What the page keeps in the browser")


def test_flags_of_the_command_line() -> None:
    flags: set[str] = set()
    parsers: list[argparse.ArgumentParser] = [parser()]
    while parsers:
        for action in parsers.pop()._actions:
            flags |= {name for name in action.option_strings[:1] if name.startswith("--")}
            if isinstance(action, argparse._SubParsersAction):
                parsers += action.choices.values()
    assert len(flags) > 20
    assert flags == named("The command line")


@pytest.mark.parametrize("name", ["JERBOA_NEW_KNOB", "HF_NEW"])
def test_a_new_name_would_be_seen(name: str) -> None:
    for line in (f'io.env("{name}")', f"os.environ['{name}']", f"jerboa.env.get('{name}')"):
        assert {*OWN.findall(line), *READ.findall(line)} == {name}
