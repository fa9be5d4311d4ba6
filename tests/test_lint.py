"""`./dev lint` finds faults in JavaScript. Each of these files has one fault that .oxlintrc.json must forbid."""

from __future__ import annotations

import runpy
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FAULTS = {
    "no-undef": "export const f = () => undeclared;",
    "no-unused-vars": "const forgotten = 1;",
    "no-unreachable": "export const f = x => { return x; x(); };",
    "eqeqeq": "export const f = x => x == 1;",
    "no-redeclare": "var a = 1; var a = 2; export { a };",
    "named": "import { absent } from './other.mjs'; absent();",
    "no-const-assign": "const a = 1; a = 2; export { a };",
    "preserve-caught-error": "try { f(); } catch (error) { throw new Error('no'); } function f() {}",
}


@pytest.fixture(scope="module")
def oxlint() -> str:
    """The program's path; skips where the platform has none."""
    found: str | None = runpy.run_path(str(ROOT / "dev"))["find_oxlint"]()
    if not found:
        pytest.skip("no oxlint for this platform")
    return found


@pytest.mark.parametrize("rule", FAULTS)
def test_a_fault_is_found(oxlint: str, rule: str, tmp_path: Path) -> None:
    (tmp_path / "other.mjs").write_text("export const there = 1;\n")
    (tmp_path / "it.mjs").write_text(FAULTS[rule] + "\n")
    command = [oxlint, "--config", str(ROOT / ".oxlintrc.json"), "--format", "unix", str(tmp_path)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1 and f"({rule})" in done.stdout, done.stdout


def test_the_pages_javascript_is_looked_at(oxlint: str) -> None:
    """A file that an ignore list or a wrong pattern leaves out would never fail."""
    done = subprocess.run([oxlint, "--debug=files"], cwd=ROOT, capture_output=True, text=True)
    for file in ("sw.js", "public/worker.mjs", "tests_e2e/probe.mjs"):
        assert file in done.stdout, done.stdout
