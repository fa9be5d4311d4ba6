"""The command `features`: the rows of a vision tower, or of an encoder of pictures."""

from __future__ import annotations

import argparse
import json

from py_engine.cli.common import load_engine, say
from py_engine.cli.npy import place_for, write_npy
from py_engine.cli.pictures import pictures


async def features(args: argparse.Namespace) -> None:
    """`features`: write the rows of a picture to a .npy file."""
    out = place_for(args.out, "--out")
    grids = None if args.grid is None else [args.grid]
    (picture,) = pictures([args.input], "--input", grids)
    from py_engine.tasks.features import FeaturesRequest

    async with await load_engine(args) as engine:
        found = await engine.ask(FeaturesRequest(**picture))
    shape = (found.rows, found.dimensions)
    write_npy(out, found.features, shape)
    say(f"{shape[0]} rows of {shape[1]} in {out}")
    if args.json:
        print(json.dumps({"out": str(out), "rows": shape[0], "dimensions": shape[1]}))
