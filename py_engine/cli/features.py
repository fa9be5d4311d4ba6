"""The command `features`: the rows of a vision tower, or of an encoder of pictures."""

from __future__ import annotations

import argparse
import json

from py_engine.cli.common import load_engine, say
from py_engine.cli.npy import place_for, read_npy, write_npy
from py_engine.cli.pictures import grid_of
from py_engine.errors import InputError


async def features(args: argparse.Namespace) -> None:
    """`features`: write the rows of a picture to a .npy file."""
    out = place_for(args.out, "--out")
    given = read_npy(args.input, "--input")
    if args.grid is None:
        raise InputError(
            f"--input {args.input}: pixels are not read yet; give patches [n, k] in float32, and their --grid"
        )
    if given.dtype != "float32" or len(given.shape) != 2:
        raise InputError(
            f"--input {args.input}: is {given.dtype} {list(given.shape)}; with --grid it is float32 patches [n, k]"
        )
    grid = grid_of(args.grid)
    if grid[0] * grid[1] * grid[2] != given.shape[0]:
        raise InputError(f"--grid {args.grid}: is not of the {given.shape[0]} patches in --input")
    from py_engine.tasks.features import FeaturesRequest

    async with await load_engine(args) as engine:
        found = await engine.ask(FeaturesRequest(given.data.cast("f"), grid=grid))
    shape = (found.rows, found.dimensions)
    write_npy(out, found.features, shape)
    say(f"{shape[0]} rows of {shape[1]} in {out}")
    if args.json:
        print(json.dumps({"out": str(out), "rows": shape[0], "dimensions": shape[1]}))
