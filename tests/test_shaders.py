"""Rules of shaders/README.md that can be read from the files."""

from __future__ import annotations

import re
from pathlib import Path

FOLDER = Path(__file__).parents[1] / "shaders"
OVERRIDE = re.compile(r"^\s*override\s+(\w+)", re.MULTILINE)
WORKGROUP = re.compile(r"^var<workgroup>\s+\w+\s*:\s*([^;]+);", re.MULTILINE)


def test_arrays_in_workgroup_memory_have_constant_sizes() -> None:
    """WebKit was seen to give arrays that an override sizes a wrong size, without an error."""
    text = {path: path.read_text() for path in FOLDER.rglob("*.wgsl")}
    kernels = [path for path in text if path.parent == FOLDER]
    anywhere = {name for path in kernels for name in OVERRIDE.findall(text[path])}
    wrong, seen = [], 0
    for path, source in text.items():
        # A library is used by several kernels. A name that it does not declare may be an override of one of them.
        own = set(OVERRIDE.findall(source))
        constants = set(re.findall(r"^const\s+(\w+)", source, re.MULTILINE))
        overrides = own if path in kernels else (anywhere | own) - constants
        for kind in WORKGROUP.findall(source):
            seen += 1
            if used := overrides & set(re.findall(r"\w+", kind)):
                wrong.append(f"{path.relative_to(FOLDER)}: {kind} uses {', '.join(sorted(used))}")
    assert seen > 30
    assert wrong == []
