"""The commands `cache` and `convert`: list, check and delete the models on this device, and convert a GGUF file."""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from py_engine.cli.common import say
from py_engine.errors import AbortError, InputError

if TYPE_CHECKING:
    from py_engine.kept.inventory import Inventory


async def cache(args: argparse.Namespace) -> int:
    """`cache`: list, verify or clean the models on this device. Returns the exit status."""
    from py_engine.host import open_io
    from py_engine.kept import inventory

    io = open_io()
    if args.what == "list":
        found = await inventory.inventory(io)
        if args.json:
            print(json.dumps(found.to_dict()))
            return 0
        for m in found.models:
            used = (
                time.strftime("%Y-%m-%d %H:%M", time.localtime(m.used)) if m.used else "never used"
            )
            state = "" if m.complete else "  (not complete)"
            name = f"{m.model}@{','.join(m.refs) or m.commit[:12]}"
            print(f"{m.nbytes / 1e6:10.1f} MB  {used}  {name}{state}")
        print(f"{found.nbytes / 1e6:10.1f} MB  in {len(found.models)} models")
        return 0
    if args.what == "clean":
        if args.model is None and not args.yes:
            _confirm_clean(await inventory.inventory(io), args.json)
        gone = await inventory.delete(io, args.model)
        if args.json:
            print(json.dumps(gone.to_dict()))
        else:
            print(f"{gone.nbytes / 1e6:.1f} MB given back, {len(gone.models)} models deleted")
            for name in gone.busy:
                print(f"{name} is being loaded and was left", file=sys.stderr)
        return 1 if gone.busy else 0
    files = await inventory.verify(io, args.model)
    wrong = [file for file in files if file.state in ("damaged", "missing")]
    if args.json:
        print(json.dumps({"files": [asdict(file) for file in files]}))
    else:
        for file in files:
            print(f"{file.state:8}  {file.model}  {file.file}")
        if wrong:
            print("The next load fetches again what is damaged or missing.", file=sys.stderr)
    return 1 if wrong else 0


def _confirm_clean(found: Inventory, as_json: bool) -> None:
    """Ask at a terminal. Raises InputError where there is no terminal, AbortError when the answer is no."""
    what = f"all {len(found.models)} models, {found.nbytes / 1e6:.1f} MB"
    if as_json or not sys.stdin or not sys.stdin.isatty():
        raise InputError(f"cache clean deletes {what}: name one model, or add --yes")
    for model in found.models:
        say(f"{model.nbytes / 1e6:10.1f} MB  {model.model}")
    say(f"Delete {what}? [y/N]")
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise AbortError("nothing was deleted")


async def convert_command(args: argparse.Namespace) -> None:
    """`convert`: make a folder that the engine reads from a GGUF file."""
    from py_engine.convert.convert import convert

    convert(args.file, args.out, args.bits, args.group_size, embedding_bits=args.embedding_bits)
    if args.json:
        nbytes = sum(file.stat().st_size for file in Path(args.out).iterdir())
        print(json.dumps({"out": args.out, "bytes": nbytes}))
