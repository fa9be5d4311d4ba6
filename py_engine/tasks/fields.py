"""The fields of a request as data. The signature of a method, the keys of a message and the words of a subcommand
follow from them."""

from __future__ import annotations

import typing
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass
from typing import Any, TypeVar

from py_engine.arguments import unknown_option

T = TypeVar("T")


@dataclass(frozen=True)
class Field:
    """One field of a request. `hint`: its type, without the help."""

    name: str
    hint: Any
    help: str
    required: bool
    by_name: bool  # it stands after KW_ONLY
    default: Any


# By class, since a request is read again at every call. functools.cache takes Hashable, and mypy says that the classes
# of frozen dataclasses are not.
_READ: dict[type[Any], tuple[Field, ...]] = {}


def fields_of(kind: type[Any]) -> tuple[Field, ...]:
    """The fields of a dataclass; those that may be given without a name come first."""
    if kind not in _READ:
        _READ[kind] = _read(kind)
    return _READ[kind]


def _read(kind: type[Any]) -> tuple[Field, ...]:
    hints = typing.get_type_hints(kind, include_extras=True)
    found = []
    for f in fields(kind):
        hint, *notes = (hints[f.name],)
        if typing.get_origin(hint) is typing.Annotated:
            hint, *notes = typing.get_args(hint)
        text = next((note for note in notes if isinstance(note, str)), "")
        required = f.default is MISSING and f.default_factory is MISSING
        default = None if required or f.default is MISSING else f.default
        found.append(Field(f.name, hint, text, required, bool(f.kw_only), default))
    return tuple(sorted(found, key=lambda field: field.by_name))


def made(kind: type[T], /, *args: Any, **options: Any) -> T:
    """A request made of these arguments. Raises InputError for an unknown name."""
    known = [field.name for field in fields_of(kind)]
    for name in options:
        if name not in known:
            raise unknown_option(name, known)
    return kind(*args, **options)


def plain(value: Any) -> Any:
    """The value as JSON can hold it: dataclasses become objects; buffers and tuples become lists."""
    if is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, memoryview):
        return value.tolist()
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value
