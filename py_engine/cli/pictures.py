"""Pictures on the command line: files of pictures, and arrays in .npy files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from py_engine.cli.npy import read_npy
from py_engine.errors import InputError


def pictures(
    paths: Sequence[str], option: str, grids: Sequence[str] | None = None
) -> list[dict[str, Any]]:
    """The pictures in these files, as parts of messages without their type: a file of a picture by its path; of a .npy
    file uint8 pixels [h, w, 3] (or 4, 1, none), or float32 patches [n, k], for which the next of `grids` (T,H,W) is.
    `option`: how errors call them. Raises InputError, before a model is loaded."""
    left = [*(grids or ())]
    found = []
    for path in paths:
        if not Path(path).is_file():
            raise InputError(f"{option} {path}: there is no such file")
        found.append(_array(path, option, left) if path.endswith(".npy") else {"image": path})
    if left:
        raise InputError(f"--grid {left[0]}: belongs to patches, float32 [n, k] in a .npy file")
    return found


def _array(path: str, option: str, grids: list[str]) -> dict[str, Any]:
    given = read_npy(path, option)
    if given.dtype == "uint8" and len(given.shape) in (2, 3):
        height, width = given.shape[:2]
        return {"pixels": given.data, "width": width, "height": height}
    if given.dtype != "float32" or len(given.shape) != 2:
        raise InputError(
            f"{option} {path}: is {given.dtype} {list(given.shape)}; give uint8 pixels [h, w, 3], or float32 patches"
            " [n, k] with --grid"
        )
    if not grids:
        raise InputError(f"{option} {path}: patches need --grid T,H,W, with T 1 for a still")
    grid = grid_of(grids[0])
    if grid[0] * grid[1] * grid[2] != given.shape[0]:
        raise InputError(
            f"--grid {grids[0]}: is not of the {given.shape[0]} patches in {option} {path}"
        )
    grids.pop(0)
    return {"patches": given.data.cast("f"), "grid": grid}


def grid_of(text: str) -> list[int]:
    """Frames, rows and columns of patches. Raises InputError."""
    try:
        grid = [int(part) for part in text.split(",")]
    except ValueError:
        grid = []
    if len(grid) != 3 or min(grid) < 1:
        raise InputError(f"--grid {text}: give frames, rows and columns of patches, like 1,16,16")
    return grid
