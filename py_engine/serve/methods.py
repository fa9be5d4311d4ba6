"""A method of Engine and SyncEngine for each task.

The tasks that come with the engine have their methods written out, for type checkers. Tasks in other files of tasks/
get theirs here, with the signature and the help of their request.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from py_engine.arguments import named_options
from py_engine.tasks import tasks
from py_engine.tasks.fields import fields_of, made
from py_engine.tasks.task import Task


def add_methods(front: type[Any]) -> None:
    """Add a method for each task to a class that has `ask`, unless it has one of that name."""
    for name, task in tasks().items():
        if not hasattr(front, name):
            setattr(front, name, _method(front, task))


def _method(front: type[Any], task: Task[Any]) -> Callable[..., Any]:
    parameters = [inspect.Parameter("self", inspect.Parameter.POSITIONAL_OR_KEYWORD)]
    lines = [inspect.getdoc(type(task)) or "", ""]
    for field in fields_of(task.request):
        kind = inspect.Parameter.KEYWORD_ONLY
        parameters.append(
            inspect.Parameter(
                field.name,
                kind if field.by_name else inspect.Parameter.POSITIONAL_OR_KEYWORD,
                default=inspect.Parameter.empty if field.required else field.default,
                annotation=field.hint,
            )
        )
        lines.append(f"{field.name}: {field.help}")
    lines += ["Raises InputError at once."]

    def method(self: Any, *args: Any, **options: Any) -> Any:
        return self.ask(made(task.request, *args, **options))

    method.__name__ = task.name
    method.__qualname__ = f"{front.__name__}.{task.name}"
    method.__module__ = front.__module__
    method.__doc__ = "\n".join(lines)
    method.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return named_options(method)
