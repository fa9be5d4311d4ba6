"""./dev test --mutations shows whether the tests can fail. Each mutation of tests/mutations.toml breaks one line of the
project; the tests that it names must fail then.

    python -m devtools.mutations [NAME ...]     all of them, or those whose name or file contains one of these words

A mutation is {file, old, new, tests}: `old` occurs in the file exactly once, `tests` are pytest's node ids. It is made
in a copy of the tree, never in place, and undone before the next. First the named tests run on the unchanged copy: a
test that fails anyway catches nothing. The exit status is 1 if a mutation survives, does not apply or does not run.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
LIST = ROOT / "tests" / "mutations.toml"
LIMIT_S = 300.0  # for one mutation's tests; a test that hangs counts as failed
BASELINE_LIMIT_S = 1800.0
FEWEST = 40
LINKED = (".venv", ".vendor", ".models")  # ignored by git, but needed by tests


@dataclass(frozen=True)
class Mutation:
    """One mutation."""

    file: str
    old: str
    new: str
    tests: tuple[str, ...]

    @property
    def name(self) -> str:
        """Return the name that is printed."""
        return f"{self.file}: {self.old.strip()[:60]!r} -> {self.new.strip()[:60]!r}"

    def fault(self, root: Path) -> str:
        """Return why the mutation cannot be made in this tree, "" when it can."""
        place = root / self.file
        if not place.is_file():
            return "there is no such file"
        found = place.read_text(encoding="utf-8").count(self.old)
        if found != 1:
            return f"the old text stands there {found} times"
        gone = [t for t in self.tests if not (root / t.partition("::")[0]).is_file()]
        return f"there is no {', '.join(gone)}" if gone else ""


def read(path: Path = LIST) -> list[Mutation]:
    """Return the list. Raises ValueError for an entry that is incomplete or changes nothing."""
    found = []
    for entry in tomllib.loads(path.read_text(encoding="utf-8"))["mutation"]:
        mutation = Mutation(entry["file"], entry["old"], entry["new"], tuple(entry["tests"]))
        if mutation.old == mutation.new or not mutation.tests:
            raise ValueError(f"{mutation.name}: it changes nothing, or names no test")
        found.append(mutation)
    return found


def copy_tree(target: Path) -> None:
    """Copy the files that git tracks or would track, as they are now, and link the ignored ones that tests need."""
    listing = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    for name in listing.stdout.decode().split("\0"):
        source = ROOT / name
        if name and source.is_file() and name.partition("/")[0] not in LINKED:
            place = target / name
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, place)
    for name in LINKED:
        if (ROOT / name).exists():
            (target / name).symlink_to((ROOT / name).resolve())


def run_tests(root: Path, tests: Sequence[str], limit_s: float) -> tuple[int | None, str]:
    """Return pytest's exit status in a tree (None when it did not end in time) and its output."""
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *tests]
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    try:
        done = subprocess.run(
            command,
            cwd=root,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=limit_s,
        )
    except subprocess.TimeoutExpired:
        return None, ""
    return done.returncode, done.stdout.decode(errors="replace")


def outcome(root: Path, mutation: Mutation) -> tuple[bool, str]:
    """Make a mutation, run its tests, undo it: returns whether it was caught, and the result in words."""
    if fault := mutation.fault(root):
        return False, f"does not apply: {fault}"
    place = root / mutation.file
    whole = place.read_text(encoding="utf-8")
    place.write_text(whole.replace(mutation.old, mutation.new), encoding="utf-8")
    try:
        status, said = run_tests(root, mutation.tests, LIMIT_S)
    finally:
        place.write_text(whole, encoding="utf-8")
    if status is None:
        return True, "caught: its tests did not end"
    if status == 1:
        return True, "caught"
    if status == 0:
        passed = "skipped" not in said.splitlines()[-1]
        return False, "SURVIVED" if passed else "SURVIVED: tests were skipped"
    return False, f"its tests did not run, pytest's exit status is {status}:\n{said[-1500:]}"


def main(arguments: list[str]) -> int:
    """Run the command line; returns the exit status."""
    every = read()
    chosen = [m for m in every if not arguments or any(word in m.name for word in arguments)]
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="jerboa-mutations-") as folder:
        root = Path(folder)
        copy_tree(root)
        tests = sorted({test for mutation in chosen for test in mutation.tests})
        status, said = run_tests(root, tests, BASELINE_LIMIT_S)
        if status != 0:
            print(f"the tests that are named fail without a mutation ({status}):\n{said[-4000:]}")
            return 1
        bad = 0
        for number, mutation in enumerate(chosen, 1):
            started = time.monotonic()
            caught, words = outcome(root, mutation)
            bad += not caught
            seconds = time.monotonic() - started
            print(f"{number}/{len(chosen)} {mutation.name}: {words} ({seconds:.0f} s)", flush=True)
    minutes = (time.monotonic() - began) / 60
    print(f"{len(chosen)} mutations, {len(chosen) - bad} caught, {minutes:.1f} minutes")
    if not arguments and len(every) < FEWEST:
        print(f"the list has {len(every)}: {FEWEST} at the least")
        return 1
    return 1 if bad or not chosen else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
