"""A subcommand for each task. Its words, options, help and output follow from the task's dataclasses."""

from __future__ import annotations

import argparse
import inspect
import json
import types
import typing
from collections import abc
from pathlib import Path
from typing import Any, Literal

from py_engine.cli.common import load_engine
from py_engine.errors import InputError
from py_engine.host.json_text import JsonError, read_json
from py_engine.tasks import tasks
from py_engine.tasks.fields import Field, fields_of, made, plain

_DEST = "ask_"  # prefix of the names of a request's fields in the parsed arguments


def add_tasks(commands: Any, parents: list[argparse.ArgumentParser]) -> None:
    """Add a subcommand for each task that has one."""
    for task in tasks().values():
        if task.command:
            text = inspect.getdoc(type(task)) or ""
            p = commands.add_parser(
                task.name, parents=parents, help=text.partition("\n")[0], description=text
            )
            p.mixed = True
            for field in fields_of(task.request):
                _add(p, field)


async def run(args: argparse.Namespace) -> None:
    """Ask a model to do a task. Prints its events, a line of JSON each, and its answer to stdout."""
    task = tasks()[args.command]
    given = {f.name: getattr(args, _DEST + f.name) for f in fields_of(task.request)}
    request = made(task.request, **{k: v for k, v in given.items() if v not in (None, [])})
    async with await load_engine(args) as engine:
        work = engine.ask(request)
        async for event in work:
            if not args.json:
                status, body = task.event(event)
                print(json.dumps({"status": status, **plain(body)}), flush=True)
        answer = await work
    value = plain(task.answer(answer))
    if args.json:
        print(json.dumps(value))
    else:
        text = task.text(answer)
        print(json.dumps(value, indent=2, ensure_ascii=False) if text is None else text)


def _add(p: argparse.ArgumentParser, field: Field) -> None:
    options: dict[str, Any] = {"help": field.help.replace("%", "%%")}
    hint = _without_none(field.hint)
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if hint is bool:
        options["action"] = argparse.BooleanOptionalAction
    elif origin is Literal:
        options["choices"] = args
    elif hint in (int, float, str):
        options["type"] = hint
    elif _is_list(hint) and args[0] in (int, float):
        options["type"] = _numbers(args[0])
        options["metavar"] = "1,2,..."
    elif _is_list(hint) and args[0] is str:
        options |= {"action": "append"} if field.by_name else {"nargs": "*"}
    else:
        options |= {"type": _json, "metavar": "JSON"}
        options["help"] += " (JSON, or @FILE with it)"
    if field.by_name or options.get("action") is argparse.BooleanOptionalAction:
        name = "--" + field.name.replace("_", "-")
        p.add_argument(name, dest=_DEST + field.name, required=field.required, **options)
        return
    options.setdefault("metavar", field.name.removesuffix("s").upper())
    if not field.required and "nargs" not in options:
        options["nargs"] = "?"
    elif field.required and options.get("nargs") == "*":
        options["nargs"] = "+"
    p.add_argument(_DEST + field.name, **options)


def _without_none(hint: Any) -> Any:
    """The type without None. Of several types the list, if there is one: a list of one item stands for the item."""
    if typing.get_origin(hint) not in (types.UnionType, typing.Union):
        return hint
    choices = [choice for choice in typing.get_args(hint) if choice is not type(None)]
    return next(filter(_is_list, choices), choices[0] if len(choices) == 1 else Any)


def _is_list(hint: Any) -> bool:
    return typing.get_origin(hint) in (list, tuple, abc.Sequence)


def _numbers(kind: type[int] | type[float]) -> Any:
    def numbers(text: str) -> list[float]:
        try:
            return [kind(part) for part in text.split(",")]
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r}: give numbers like 1,2,3") from None

    return numbers


def _json(text: str) -> Any:
    try:
        return read_json(Path(text[1:]).read_bytes() if text.startswith("@") else text.encode())
    except (OSError, JsonError) as error:
        raise InputError(f"{text[:80]}: give JSON, or @FILE with it ({error})") from error
