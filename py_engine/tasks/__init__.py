"""The tasks: a file each, found by looking at this folder (tasks/task.py tells what one is)."""

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


@cache
def tasks() -> Mapping[str, Task[Any]]:
    """All tasks by their names. Looks at the folder once; it may lie in a zip."""
    from py_engine.tasks.task import Task

    found: dict[str, Task[Any]] = {}
    for name in sorted(info.name for info in pkgutil.iter_modules(__path__)):
        module = import_module(f"{__name__}.{name}")
        for value in vars(module).values():
            own = isinstance(value, type) and value.__module__ == module.__name__
            if own and issubclass(value, Task) and "name" in vars(value):
                if value.name in found:
                    raise TypeError(f"two tasks are called {value.name!r}: give each its own name")
                found[value.name] = value()
    return found


def task_of(request: Request[Any]) -> Task[Any]:
    """The task that a request belongs to. Raises InputError for what is no request."""
    for task in tasks().values():
        if type(request) is task.request:
            return task
    known = ", ".join(task.request.__name__ for task in tasks().values())
    raise InputError(f"ask() takes a request of a task ({known}), not a {type(request).__name__}")


def tasks_of(loaded: Loaded) -> list[str]:
    """Names of what a model can do."""
    return [name for name, task in tasks().items() if task.lacks(loaded) is None]
