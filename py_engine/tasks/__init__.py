"""The tasks: one file each, found by looking through this folder. tasks/task.py says what a task is."""

from __future__ import annotations

import pkgutil
from collections.abc import Mapping
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Any

from py_engine.errors import InputError

if TYPE_CHECKING:
    from py_engine.tasks.loaded import Loaded
    from py_engine.tasks.task import Request, Task


ENVELOPE = (
    "type",
    "id",
    "model",
    "status",
)  # keys that every message has, so no request may use them


@cache
def tasks() -> Mapping[str, Task[Any]]:
    """All tasks by their names. Looks through the folder once; it may be in a zip."""
    from py_engine.tasks.task import Task

    found: dict[str, Task[Any]] = {}
    for name in sorted(info.name for info in pkgutil.iter_modules(__path__)):
        module = import_module(f"{__name__}.{name}")
        for value in vars(module).values():
            own = isinstance(value, type) and value.__module__ == module.__name__
            if own and issubclass(value, Task) and "name" in vars(value):
                _check(value, found)
                found[value.name] = value()
    return found


def _check(task: type[Task[Any]], found: Mapping[str, Task[Any]]) -> None:
    """Raise TypeError if the task's name or one of its request's fields is taken."""
    from py_engine.tasks.fields import fields_of

    if task.name in found:
        raise TypeError(f"two tasks are called {task.name!r}: give each its own name")
    for field in fields_of(task.request):
        if field.name in ENVELOPE:
            raise TypeError(
                f"{task.request.__name__}.{field.name}: messages use this name themselves, choose another"
            )


def task_of(request: Request[Any]) -> Task[Any]:
    """The task that a request belongs to. Raises InputError for anything else."""
    for task in tasks().values():
        if type(request) is task.request:
            return task
    known = ", ".join(task.request.__name__ for task in tasks().values())
    raise InputError(f"ask() takes a request of a task ({known}), not a {type(request).__name__}")


def tasks_of(loaded: Loaded) -> list[str]:
    """Names of the tasks that a model can do."""
    return [name for name, task in tasks().items() if task.lacks(loaded) is None]
