"""A Jinja2 environment for templates that came with a model and are not trusted: they can reach nothing
of Python, and their work is limited.

In addition to Jinja2's immutable sandbox, everything that a template does is charged to a budget before it is
done: template_budget.py counts, template_costs.py and template_operators.py say what each step costs, and
template_tree.py rewrites the template so that it asks. Jinja2 is imported with this module, which is imported when
the first template is compiled.
"""

from __future__ import annotations

import functools
import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from jinja2 import Template, TemplateError, nodes, pass_context
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import Context, Macro, Undefined
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

from py_engine.errors import InputError

from .template_budget import CALL, CASE_WORK, ESCAPED, MAX_BITS, OPERATION, Budget, size_of, small
from .template_costs import FILTERS, Given, methods_of
from .template_operators import compare_cost, format_cost, operator_cost
from .template_tree import charge, check_depth, check_source, check_tokens

MAX_RANGE = 10_000
MAX_PATTERN_CHARS = 256  # of the pattern of strftime_now
# Of a message that a template gives when it refuses, or Python when the template fails.
MAX_TOLD_CHARS = 2000
# Calls inside calls. Python's own limit comes too late in a browser: a macro that calls itself some 150
# times ends Pyodide itself ("Maximum call stack size exceeded", fatal; seen in 0.27.7 and 314.0.7).
MAX_DEPTH = 24
_OPERATORS: Mapping[str, Callable[[Any, Any], Any]] = {
    "eq": lambda a, b: a == b,
    "ne": lambda a, b: a != b,
    "lt": lambda a, b: a < b,
    "lteq": lambda a, b: a <= b,
    "gt": lambda a, b: a > b,
    "gteq": lambda a, b: a >= b,
    "in": lambda a, b: a in b,
    "notin": lambda a, b: a not in b,
}
_JINJAS_OWN = (
    "_loop_vars",
    "_block_vars",
)  # Jinja2 adds these to calls, for functions that need the context
_COMPARING = {
    **dict.fromkeys(["==", "eq", "equalto", "!=", "ne", "in"]),
    **dict.fromkeys(["<", "lt", "lessthan", "<=", "le", ">", "gt", "greaterthan", ">=", "ge"]),
}


class _Generation(Extension):
    """`{% generation %}...{% endgeneration %}`, which marks the model's own words for training:
    passes its body through."""

    tags = {"generation"}

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _Namespace(Namespace):
    """Jinja2's namespace, but printed without its content, which may contain itself."""

    def __repr__(self) -> str:
        return "<Namespace>"


class LimitedEnvironment(ImmutableSandboxedEnvironment):
    """Jinja2 as Hugging Face's templates expect it (trim_blocks, lstrip_blocks, break and continue,
    plain JSON), with limits."""

    intercepted_binops = frozenset(["+", "-", "*", "/", "//", "**", "%"])

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=[loopcontrols, _Generation],
            optimized=False,  # else constants would be folded while compiling, outside any budget
            finalize=self._printed(),
            autoescape=False,
        )
        self.budget = Budget()
        self._depth = 0
        plain = {**self.filters, "tojson": _to_json}
        self.filters = {name: self._charged(name, plain[name]) for name in FILTERS}
        tests: Mapping[str, Any] = self.tests
        self.tests = {name: self._charged_test(name, test) for name, test in tests.items()}
        self.globals = {
            **{name: self.globals[name] for name in ("cycler", "dict", "joiner")},
            "namespace": _Namespace,
            "range": _range,
            "raise_exception": _raise_exception,
            "strftime_now": _strftime_now,
        }

    def compile_limited(self, source: str) -> Template:
        """Compile a template so that all its work is charged to the budget. Raises InputError."""
        check_source(source)
        self.budget = Budget()
        with _errors():
            check_tokens(self.lex(source))
            tree = self.parse(source)
            check_depth(tree)
            return Template.from_code(self, self.compile(charge(tree)), self.make_globals(None))

    def render_limited(self, template: Template, variables: Mapping[str, Any]) -> str:
        """Render a template. Raises InputError for anything that goes wrong in it."""
        self.budget = Budget(size_of(dict(variables), most=1 << 62))
        self._depth = 0
        out: list[str] = []
        size = 0
        with _errors():
            for piece in template.generate(dict(variables)):
                size += len(piece)
                self.budget.fits(size)
                out.append(piece)
        return "".join(out)

    # What the rewritten templates call.

    def turn(self, work: int, chars: int) -> bool:
        """Charge a turn that prints `chars` characters of fixed text. Always true, so that it can be part of
        a condition."""
        self.budget.turn(work)
        self.budget.text(chars)
        return True

    def concat_text(self, *parts: Any) -> str:
        """The `~` operator."""
        self.budget.text(sum(map(self.budget.printed, parts)))
        return "".join(map(str, parts))

    def compare(self, operators: tuple[str, ...], *values: Any) -> Any:
        """A chain of comparisons, `a < b in c`. Unlike in Python, all its values were evaluated before."""
        result: Any = True
        for operator, left, right in zip(operators, values, values[1:], strict=False):
            compare_cost(self.budget, operator, left, right)
            result = _OPERATORS[operator](left, right)
            if not result:
                break
        return result

    def cut(self, value: Any, start: Any, stop: Any, step: Any) -> Any:
        """value[start:stop:step]"""
        part = slice(start, stop, step)
        if isinstance(value, str):
            self.budget.text(len(range(*part.indices(len(value)))))
        elif isinstance(value, (list, tuple)):
            self.budget.items(len(range(*part.indices(len(value)))))
        try:
            return value[part]
        except (TypeError, LookupError):
            return self.undefined(obj=value, name="[:]")  # its bounds may be too long to print

    def made(self, value: Any) -> Any:
        """Charge for a list, tuple or dict that was just made. Its values may contain each other many times."""
        size = self.budget.look(value)
        self.budget.bytes(64 + 16 * len(value) + (100 if size.nodes else 0))
        return value

    # Hooks of the sandbox.

    def unsafe_undefined(self, obj: Any, attribute: str) -> Undefined:
        """Fail at once: Jinja2 would give an undefined value that is silently false in a
        condition."""
        raise SecurityError(
            f"access to attribute {attribute!r} of {type(obj).__name__!r} is forbidden"
        )

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        """Whether an attribute may be reached: of Python's own types only those with a known cost."""
        methods = methods_of(obj)
        if methods is not None and callable(value) and attr not in methods:
            return False
        return super().is_safe_attribute(obj, attr, value)

    def getitem(self, obj: Any, argument: Any) -> Any:
        """obj[argument], or its attribute of that name."""
        self.budget.work(OPERATION // 2)
        if not isinstance(argument, (str, int)):
            self.budget.text(self.budget.printed(argument))  # since an error would print it
        return super().getitem(obj, argument)

    def call(self, context: Context, obj: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Every call in a template."""
        owner = getattr(obj, "__self__", None)
        if owner is self:  # template_tree.py's
            return obj(*args)
        for name in _JINJAS_OWN:
            kwargs.pop(name, None)
        methods = methods_of(owner)
        if methods is not None:
            given = Given(self.budget, obj.__name__, owner, args, kwargs)
            methods[given.name](given)
            return self._checked(obj(*given.args, **kwargs))
        self.budget.work(CALL)
        self.budget.items(len(args) + len(kwargs), 64)
        if not isinstance(obj, Macro) or obj.catch_varargs or obj.catch_kwargs:
            for value in (*args, *kwargs.values()):
                self.budget.look(value)
        if obj is _raise_exception or obj is _strftime_now:
            for value in (*args, *kwargs.values()):
                self.budget.text(self.budget.printed(value))
        if self._depth >= MAX_DEPTH:
            raise InputError(
                f"the chat template calls itself without end: more than {MAX_DEPTH} calls deep"
            )
        self._depth += 1
        try:
            result = super().call(context, obj, *args, **kwargs)
        finally:
            self._depth -= 1
        return result if isinstance(obj, Macro) else self._checked(result)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """+ - * / // % **, charged first for the size of the result."""
        operator_cost(self.budget, operator, left, right)
        return self._checked(super().call_binop(context, operator, left, right))

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        """str.format, charged for its widths."""
        owner: Any = getattr(value, "__self__", None)
        if isinstance(owner, str) and value.__name__ == "format_map":
            raise SecurityError("access to attribute 'format_map' of 'str' is forbidden")
        sandboxed = super().wrap_str_format(value)
        if sandboxed is None:
            return None

        def run(*args: Any, **kwargs: Any) -> str:
            format_cost(self.budget, owner, [*args, *kwargs.values()])
            result: str = sandboxed(*args, **kwargs)
            return result

        return run

    # Measures.

    def _charged(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """A filter that is charged before it works. It returns a list where it would return an iterator:
        iterators over iterators would be walked by recursion."""
        cost = FILTERS[name]
        before = 1 if hasattr(function, "jinja_pass_arg") else 0

        @functools.wraps(function)
        def run(*args: Any, **kwargs: Any) -> Any:
            given = Given(self.budget, name, args[before], args[before + 1 :], kwargs)
            if isinstance(given.value, Iterator) and name not in _AS_IT_IS:
                given.value = self.budget.collect(given.value)
            cost(given)
            result = function(*args[:before], given.value, *given.args, **kwargs)
            if isinstance(result, Iterator):
                return iter(self._checked(self.budget.collect(result)))
            return self._checked(result)

        return run

    def _charged_test(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        before = 1 if hasattr(function, "jinja_pass_arg") else 0
        kind = ("in" if name == "in" else "eq") if name in _COMPARING else ""

        @functools.wraps(function)
        def run(*args: Any) -> Any:
            given = args[before:]
            if kind and len(given) == 2:
                compare_cost(self.budget, kind, *given)
            else:
                self.budget.work(OPERATION)
                if name in ("lower", "upper"):
                    self.budget.work(CASE_WORK * self.budget.printed(given[0]))
            return function(*args)

        return run

    def _checked(self, value: Any) -> Any:
        if isinstance(value, int):
            small(value.bit_length(), MAX_BITS, "a number's bits")
        elif isinstance(value, (list, tuple, dict)):
            self.budget.look(value)
        return value

    def _printed(self) -> Callable[[Context, Any], Any]:
        # Given the context, Jinja2 does not call it for constants while it compiles.
        @pass_context
        def printed(_context: Context, value: Any) -> Any:
            chars = self.budget.printed(value)
            self.budget.fits(chars)
            self.budget.bytes(ESCAPED * chars)
            self.budget.work(OPERATION + chars)
            return value

        return printed


# Their cost does not depend on what an iterator holds.
_AS_IT_IS = frozenset(["attr", "d", "default", "e", "escape", "first", "format", "safe", "string"])


def _range(*args: int) -> range:
    for number in args:
        if isinstance(number, int):
            small(number.bit_length(), MAX_BITS, "a number's bits")
    numbers = range(*args)
    if numbers and abs(numbers[-1] - numbers[0]) // abs(numbers.step) >= MAX_RANGE:
        raise InputError(f"the chat template asks for range{args}: at most {MAX_RANGE} numbers")
    return numbers


class _Raised(Exception):
    """raise_exception was called."""


def _raise_exception(message: object) -> str:
    raise _Raised(str(message))


def _strftime_now(pattern: str) -> str:
    if len(str(pattern)) > MAX_PATTERN_CHARS:
        raise InputError(
            f"the chat template gives strftime_now a pattern of more than {MAX_PATTERN_CHARS} characters"
        )
    return time.strftime(str(pattern))


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """JSON as templates were written for: nothing escaped for HTML, unlike Jinja2's own filter."""
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


@contextmanager
def _errors() -> Iterator[None]:
    """Turn every error of a template into an InputError."""
    try:
        yield
    except InputError:
        raise
    except _Raised as error:
        raise InputError(f"the chat template refuses these messages: {_told(error)}") from error
    except SecurityError as error:
        raise InputError(
            f"the chat template reaches for what it may not: {_told(error)}. "
            "Do not trust this model's files"
        ) from error
    except RecursionError as error:
        raise InputError("the chat template uses up Python's stack") from error
    except TemplateError as error:
        line = getattr(error, "lineno", None)
        where = f" (line {line})" if line else ""
        raise InputError(f"the chat template fails{where}: {_told(error)}") from error
    except Exception as error:  # a template can make any operation of its values fail
        raise InputError(
            f"the chat template fails on these messages: {type(error).__name__}: {_told(error)}"
        ) from error


def _told(error: Exception) -> str:
    text = str(error)
    return text if len(text) <= MAX_TOLD_CHARS else text[:MAX_TOLD_CHARS] + "..."
