"""Reads and writes messages: from a page's objects to the classes of serve/protocol.py and the requests of tasks, and
back.

Nothing here knows a particular task: the keys of its message follow from the dataclass of its request.
"""

from __future__ import annotations

import re
import types
import typing
from collections import abc
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, Literal

from py_engine.arguments import real, shown, whole
from py_engine.errors import InputError
from py_engine.serve.answers import (
    Complete,
    Event,
    FromWorker,
)
from py_engine.serve.protocol import (
    NO_ID,
    Ask,
    Bench,
    CountTokens,
    Diagnose,
    Generate,
    GenerateOptions,
    LoadOptions,
    MessageId,
    ToWorker,
)
from py_engine.tasks import tasks
from py_engine.tasks.fields import fields_of, plain

MAX_ID = 256  # characters
MAX_BENCH = 1_000_000  # the most tokens of a bench's prompt or answer
MAX_RUNS = 1000
_KINDS: dict[str, type[Any]] = {
    kind.type: kind for kind in typing.get_args(ToWorker) if kind is not Ask
}


def to_wire(message: ToWorker | FromWorker) -> dict[str, Any]:
    """The plain object of a message. Without an id, its keys are there in camel case, too."""
    if isinstance(message, Ask):
        wire = {"type": message.task, "id": message.id, **plain(message.request)}
        wire["model"] = message.model
    elif isinstance(message, (Event, Complete)):
        wire = {"status": message.status, "id": message.id, **plain(message.body)}
    elif isinstance(message, ToWorker):
        wire = {"type": message.type, **plain(message)}
    else:
        wire = {"status": message.status, **plain(message)}
    if wire.get("id") is NO_ID:
        del wire["id"]
        wire.update({_camel(key): value for key, value in wire.items()})
    return wire


def parse(data: Any) -> ToWorker:
    """The message of an object that a page sent. Keys whose value is null count as absent.

    Raises InputError naming the field that is missing, unknown or of the wrong type.
    """
    if not isinstance(data, Mapping):
        raise InputError(f"a message is an object with type and id, not {shown(data)}")
    name = data.get("type")
    body = {k: v for k, v in data.items() if k not in ("type", "id")}
    task = tasks().get(name) if isinstance(name, str) else None
    if task is not None and name not in _KINDS:
        id = _id(task.name, data)
        name = _checked(str | None, body.pop("model", None), f"{task.name}.model")
        return Ask(id, task.name, _build(task.request, body, task.name), name)
    kind = _KINDS.get(name) if isinstance(name, str) else None
    if kind is None:
        known = ", ".join(sorted({*_KINDS, *tasks()}))
        raise InputError(f"unknown message type {shown(name)}: known are {known}")
    message = _build(kind, {**body, "id": _id(kind.type, data)}, kind.type)
    _check(message)
    return typing.cast(ToWorker, message)


def _check(message: Any) -> None:
    """Check what the types of the fields do not say. Raises InputError."""
    if isinstance(message, Generate) and (message.messages is None) == (message.prompt is None):
        raise InputError("generate wants either messages or prompt")
    if isinstance(message, CountTokens) and (message.messages is None) == (message.text is None):
        raise InputError("count_tokens wants either messages or text")
    if isinstance(message, Bench):
        whole("bench.prompt_tokens", message.prompt_tokens, 1, MAX_BENCH)
        whole("bench.new_tokens", message.new_tokens, 1, MAX_BENCH)
        whole("bench.runs", message.runs, 1, MAX_RUNS)
    if isinstance(message, Diagnose) and message.most is not None:
        whole("diagnose.most", message.most, 1, MAX_BENCH)


def as_task(message: Generate) -> Ask:
    """The task that a `generate` asks for. Raises InputError."""
    options = given(message.options)
    if message.messages is not None:
        name, options["messages"] = "chat", message.messages
    else:
        name, options["prompt"] = "complete", message.prompt
    request = _build(tasks()[name].request, options, "generate.options")
    return Ask(message.id, name, request, message.model)


def sent_id(data: Any) -> MessageId | None:
    """The id for the answer to a message that was refused. A long id is cut; None where there is no usable one."""
    if isinstance(data, Mapping) and isinstance(data.get("type"), str) and data.get("id") is None:
        return NO_ID
    value = data.get("id") if isinstance(data, Mapping) else None
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        return None
    return value[:MAX_ID] if isinstance(value, str) else value


def given(options: LoadOptions | GenerateOptions) -> dict[str, Any]:
    """The options that were set, as keyword arguments."""
    return {k: v for k, v in vars(options).items() if v is not None}


def _id(kind: str, data: Mapping[str, Any]) -> MessageId:
    if data.get("id") is None:
        return NO_ID
    value: str | int = _checked(str | int, data["id"], f"{kind}.id")
    if isinstance(value, str) and len(value) > MAX_ID:
        raise InputError(f"{kind}.id has {len(value)} characters, more than {MAX_ID}")
    return value


def _build(kind: type[Any], data: Mapping[str, Any], where: str) -> Any:
    """An object of a dataclass, from the keys of a message."""
    hints = {field.name: field.hint for field in fields_of(kind)}
    values: dict[str, Any] = {}
    for key, value in data.items():
        name = _snake(key) if isinstance(key, str) and key not in hints else key
        if name not in hints:
            raise InputError(f"{where} has no field {shown(key)}: known are {', '.join(hints)}")
        if value is None:
            continue
        if name in values:
            raise InputError(f"{where} has the field {name!r} twice")
        values[name] = value if value is NO_ID else _checked(hints[name], value, f"{where}.{name}")
    for f in fields(kind):
        if f.name not in values and f.default is MISSING and f.default_factory is MISSING:
            raise InputError(f"{where} needs the field {f.name!r}")
    return kind(**values)


def _checked(hint: Any, value: Any, where: str) -> Any:
    """`value`, if it is of the annotated type. Objects of options become their class; items are checked too."""
    if hint is Any:
        return value
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        return _one_of([a for a in args if a is not type(None)], value, where)
    if origin is Literal:
        if not isinstance(value, (str, int)) or value not in args:
            raise InputError(
                f"{where} must be one of {', '.join(map(str, args))}, not {shown(value)}"
            )
        return value
    if is_dataclass(hint) and isinstance(hint, type):
        return _build(hint, _object(value, where), where)
    if origin in (list, tuple, abc.Sequence):
        if not isinstance(value, (list, tuple)):
            raise InputError(f"{where} must be a list, not {shown(value)}")
        return [_checked(args[0], item, f"{where}[{i}]") for i, item in enumerate(value)]
    if origin in (dict, abc.Mapping):
        return dict(_object(value, where))
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return real(where, value, -1e300, 1e300)
    if hint is int and isinstance(value, float) and value.is_integer():
        return int(value)  # JavaScript has one kind of number
    if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
        raise InputError(f"{where} must be {hint.__name__}, not {shown(value)}")
    return value


def _one_of(choices: list[Any], value: Any, where: str) -> Any:
    """`value`, checked as the type of `choices` that it has."""
    if value is None:
        return None
    if len(choices) == 1:
        return _checked(choices[0], value, where)
    inside: InputError | None = None  # the value is of this kind, but something in it is wrong
    for choice in choices:
        try:
            return _checked(choice, value, where)
        except InputError as error:
            origin = typing.get_origin(choice) or choice
            if isinstance(origin, type) and isinstance(value, origin):
                inside = error
    if inside is not None:
        raise inside
    raise InputError(f"{where} must be {' or '.join(map(_name, choices))}, not {shown(value)}")


def _name(hint: Any) -> str:
    origin = typing.get_origin(hint)
    if origin in (list, tuple, abc.Sequence):
        return "a list"
    return "an object" if origin in (dict, abc.Mapping) else getattr(hint, "__name__", str(hint))


def _object(value: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise InputError(f"{where} must be an object, not {shown(value)}")
    return value


def _camel(name: str) -> str:
    return re.sub(r"_([a-z0-9])", lambda found: found[1].upper(), name)


def _snake(name: str) -> str:
    return re.sub(r"[A-Z]", lambda found: "_" + found[0].lower(), name[:64])
