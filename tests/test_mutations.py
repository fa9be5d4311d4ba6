"""Every mutation in the list applies, and the runner reports which ones tests caught. To run all of them: ./dev test
--mutations.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from devtools import mutations
from devtools.mutations import ROOT, Mutation


def test_every_mutation_can_be_made() -> None:
    every = mutations.read()
    assert len(every) >= mutations.FEWEST
    assert {m.name: m.fault(ROOT) for m in every if m.fault(ROOT)} == {}
    assert len({(m.file, m.old, m.new) for m in every}) == len(every)


CODE = "def double(x):\n    return 2 * x\n"
TESTS = {
    "good": ("from code_here import double\ndef test_it(): assert double(3) == 6", True, "caught"),
    "blind": ("from code_here import double\ndef test_it(): assert double(0) == 0", False, "SURVIVED"),
    "skips": ("import pytest\ndef test_it(): pytest.skip('no')", False, "SURVIVED: tests were skipped"),
    "broken": ("import nowhere_at_all", False, "did not run"),
}  # fmt: skip


@pytest.mark.parametrize("kind", TESTS)
def test_what_becomes_of_one(tmp_path: Path, kind: str) -> None:
    source, caught, words = TESTS[kind]
    (tmp_path / "pyproject.toml").write_text('[tool.pytest.ini_options]\npythonpath = ["."]\n')
    (tmp_path / "code_here.py").write_text(CODE)
    (tmp_path / "test_it.py").write_text(source)
    found, told = mutations.outcome(
        tmp_path, Mutation("code_here.py", "2 * x", "3 * x", ("test_it.py",))
    )
    assert (found, words in told) == (caught, True), told
    assert (tmp_path / "code_here.py").read_text() == CODE, "it is taken back"


@pytest.mark.parametrize("old, times", [("x", 2), ("y", 0)])
def test_what_does_not_apply_is_no_catch(tmp_path: Path, old: str, times: int) -> None:
    (tmp_path / "code_here.py").write_text(CODE)
    found, told = mutations.outcome(tmp_path, Mutation("code_here.py", old, "z", ("test_it.py",)))
    assert not found and f"{times} times" in told
