"""The command `memory`: add documents, recall, forget, list."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from py_engine.cli.common import load_engine, say
from py_engine.errors import InputError

if TYPE_CHECKING:
    from py_engine.memory.adding import AddProgress


async def memory(args: argparse.Namespace) -> int:
    """Do what `args.what` says. Returns the exit status."""
    return await {"add": _add, "recall": _recall, "forget": _forget, "list": _list}[args.what](args)


async def _add(args: argparse.Namespace) -> int:
    """Every file is added that can be; the others are told, and the status is 1."""
    from py_engine.memory.memory import Memory

    if not args.files and not args.text:
        raise InputError("memory add: name files (- is stdin), or give --text")
    await _name_model(args)
    added: list[dict[str, Any]] = []
    failed: list[dict[str, Any]] = []
    async with await load_engine(args) as engine:
        async with Memory(engine, namespace=args.namespace, on_note=say) as kept:
            for text in args.text or ():
                added.append({"source": "", "ids": [await kept.add(text)], "notes": []})
            for name in args.files:
                try:
                    data = _document(name)
                    found = await kept.add_document(data, name, on_progress=_told())
                    added.append({"source": name, "ids": [*found.ids], "notes": [*found.notes]})
                except InputError as error:  # of this document
                    say(f"{error.type}: {error}")
                    failed.append(
                        {"source": name, "error": {"type": error.type, "message": str(error)}}
                    )
    if args.json:
        print(json.dumps({"namespace": args.namespace, "added": added, "failed": failed}))
    else:
        for entry in added:
            print(f"{len(entry['ids']):6} pieces  {entry['source'] or '(text)'}")
    return 1 if failed else 0


def _document(name: str) -> bytes:
    """The bytes of a file, or of stdin. Raises DocumentError for a large one before it is read, InputError."""
    from py_engine.memory.documents import MAX_BYTES, check_size

    if name == "-":
        data = sys.stdin.buffer.read(MAX_BYTES + 1)
        check_size(name, len(data))
        return data
    try:
        check_size(name, Path(name).stat().st_size)
        return Path(name).read_bytes()
    except OSError as error:
        raise InputError(f"{name}: {error.strerror or error}") from None


def _told() -> Any:
    """Tells a terminal how far a document is."""
    if not sys.stderr.isatty():
        return None

    def tell(p: AddProgress) -> None:
        end = "\n" if p.done == p.total else ""
        print(
            f"\r{p.source}: {p.done:,} of {p.total:,} {p.unit}, {p.stored} pieces", end=end,
            file=sys.stderr, flush=True,
        )  # fmt: skip

    return tell


async def _recall(args: argparse.Namespace) -> int:
    from py_engine.memory.memory import Memory

    await _name_model(args)
    async with await load_engine(args) as engine:
        async with Memory(engine, namespace=args.namespace, on_note=say) as kept:
            found = await kept.recall(
                args.query,
                token_budget=args.token_budget,
                top_k=args.top_k,
                min_score=args.min_score,
                hybrid=args.hybrid,
            )
    print(json.dumps(found.to_dict()) if args.json else found.context)
    return 0


async def _forget(args: argparse.Namespace) -> int:
    from py_engine.host import open_io
    from py_engine.memory.messages import forget

    if bool(args.ids) + (args.source is not None) + args.all != 1:
        raise InputError("memory forget: give ids, or --source NAME, or --all")
    io = open_io()
    try:
        store = await io.open_store("memory")
        n = await forget(store, io, args.namespace, ids=args.ids or None, source=args.source)
    finally:
        io.close()
    print(json.dumps({"forgotten": n}) if args.json else f"{n} pieces forgotten")
    return 0


async def _list(args: argparse.Namespace) -> int:
    from py_engine.host import open_io
    from py_engine.memory.head import namespaces
    from py_engine.memory.namespace import Namespace
    from py_engine.memory.records import sources_of

    io = open_io()
    try:
        store = await io.open_store("memory")
        if args.namespace is None:
            found = await namespaces(store, io)
            value: dict[str, Any] = {"namespaces": found}
            lines = [
                f"{n['nbytes'] / 1e6:10.1f} MB  {n['namespace']}  {n.get('model', n.get('error', ''))}"
                for n in found
            ]
        else:
            space = await Namespace.stored(store, io, args.namespace)
            sources = sources_of(space.records.values())
            value = {"namespace": args.namespace, "sources": sources}
            lines = [f"{s['pieces']:6} pieces  {s['source'] or '(text)'}" for s in sources]
    finally:
        io.close()
    print(json.dumps(value) if args.json else "\n".join(lines))
    return 0


async def _name_model(args: argparse.Namespace) -> None:
    """Without --model, take the embedder that wrote the namespace. Raises InputError if there is none."""
    if args.model is not None:
        return
    from py_engine.host import open_io
    from py_engine.memory.head import Head

    io = open_io()
    try:
        head = await Head.read(await io.open_store("memory"), io, args.namespace)
    finally:
        io.close()
    if head is None:
        raise InputError(
            f"the namespace {args.namespace!r} is new: say by --model which embedder makes its vectors"
        )
    args.model = head.identity.model
