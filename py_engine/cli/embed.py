"""The command `embed`: vectors of texts from the command line, files or stdin."""

from __future__ import annotations

import argparse
import json
import sys
from array import array
from pathlib import Path

from py_engine.cli.common import load_engine, say
from py_engine.cli.npy import place_for, write_npy
from py_engine.errors import InputError

_MOST_BYTES = 64 << 20  # of a file


async def embed(args: argparse.Namespace) -> None:
    """`embed`: print the vectors, or write them to a .npy file."""
    out = place_for(args.out, "--out") if args.out is not None else None
    texts = [text for given in args.texts for text in _texts(given)]
    texts += [_text(path) for path in args.file or ()]
    ids = _ids(args.ids) if args.ids is not None else None
    from py_engine.tasks.embed import Embed, EmbedRequest
    from py_engine.tasks.fields import plain

    request = EmbedRequest(texts or None, ids=ids, task=args.task, dimensions=args.dimensions)
    async with await load_engine(args) as engine:
        found = await engine.ask(request)
    told = dict(Embed().answer(found))
    if out is not None:
        rows = told.pop("embeddings")
        write_npy(out, memoryview(array("f", b"".join(rows))), (len(rows), found.dimensions))
        say(f"{len(rows)} vectors of {found.dimensions} in {out}")
        told = {"out": str(out), **told}
    if args.json:
        print(json.dumps(plain(told)))
    elif out is None:
        print(json.dumps(plain(told), indent=2, ensure_ascii=False))


def _texts(given: str) -> list[str]:
    """A word of the command line; of "-" the lines of stdin that are not empty."""
    return [line for line in sys.stdin.read().splitlines() if line] if given == "-" else [given]


def _text(path: str) -> str:
    try:
        with Path(path).open("rb") as file:
            data = file.read(_MOST_BYTES + 1)
        text = data.decode("utf-8-sig")
    except OSError as error:
        raise InputError(f"--file {path}: cannot be read ({error.strerror or error})") from error
    except UnicodeDecodeError as error:
        raise InputError(f"--file {path}: is no text in UTF-8 ({error.reason})") from error
    if len(data) > _MOST_BYTES:
        raise InputError(
            f"--file {path}: is larger than 64 MiB; `jerboa memory add` splits large documents"
        )
    return text


def _ids(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise InputError(f"--ids {text[:40]!r}: give numbers like 1,2,3") from None
