"""A Jinja2 environment for templates that came with a model from somewhere: nothing of Python can
be reached, and work is bounded.

On top of Jinja2's immutable sandbox every loop turn, macro call, printed value and built text is
charged to a budget, and what can make much out of little (`'a' * 10**9`, `'%999999999d'`, `center`,
`replace`, `join`) is measured before it is done. Jinja2 is imported with this module, which is
imported when the first template is compiled.
"""

from __future__ import annotations

import functools
import json
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from jinja2 import Template, TemplateError, nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import Context, Undefined
from jinja2.sandbox import ImmutableSandboxedEnvironment

from py_engine.errors import InputError

MAX_SOURCE_CHARS = 1 << 20
MAX_TURNS = 50_000  # of loops and macro calls in one rendering (10 to 25 us each)
MAX_RANGE = 10_000
MAX_TEXT_CHARS = 4 << 20  # of one text or list that a template builds
MAX_WORK_CHARS = 128 << 20  # of all of them together
MAX_COUNT = 10_000  # width, indent, batch: numbers given to text functions
# Calls inside calls. Python's own limit comes too late in a browser: a macro that calls itself some 150
# times ends Pyodide itself ("Maximum call stack size exceeded", fatal; seen in 0.27.7 and 314.0.7).
MAX_DEPTH = 24
MAX_TREE_DEPTH = 100  # of the parsed source
MAX_SECONDS = 5.0  # the backstop for what the other limits do not see


class Budget:
    """What one rendering may still do. Raises InputError when it is spent."""

    def __init__(self) -> None:
        self._turns = 0
        self._chars = 0
        self._end = time.monotonic() + MAX_SECONDS

    def turn(self, chars: int) -> None:
        """One turn of a loop or one macro call, whose fixed text is `chars` long."""
        self._turns += 1
        if self._turns > MAX_TURNS:
            raise InputError(
                f"the chat template loops: more than {MAX_TURNS} turns in one rendering"
            )
        self.work(chars)

    def work(self, chars: int) -> None:
        """`chars` characters or list entries were read or built."""
        self._chars += chars
        if self._chars > MAX_WORK_CHARS:
            raise InputError(
                f"the chat template works through more than {MAX_WORK_CHARS} characters"
            )
        if time.monotonic() > self._end:
            raise InputError(f"the chat template ran for more than {MAX_SECONDS} seconds")

    def build(self, size: int) -> None:
        """A text or list of this size is about to be built, or was."""
        if size > MAX_TEXT_CHARS:
            raise InputError(
                f"the chat template builds a text of {size} characters, more than {MAX_TEXT_CHARS}"
            )
        self.work(size)


class _Generation(Extension):
    """`{% generation %}...{% endgeneration %}`, which marks the model's own words for training:
    passes its body through."""

    tags = {"generation"}

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class LimitedEnvironment(ImmutableSandboxedEnvironment):
    """Jinja2 as Hugging Face's templates expect it (trim_blocks, lstrip_blocks, break and continue,
    plain JSON), with limits."""

    intercepted_binops = frozenset(["+", "*", "**", "%"])

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=[loopcontrols, _Generation],
            optimized=False,  # constants are folded while compiling, outside any budget
            finalize=self._printed,
            autoescape=False,
        )
        self.budget = Budget()
        self._depth = 0
        self.filters = {name: self._limited(name, f) for name, f in self.filters.items()}
        self.filters["tojson"] = self._limited("tojson", _to_json)
        self.globals.pop("lipsum", None)
        self.globals["range"] = self._range
        self.globals["raise_exception"] = _raise_exception
        self.globals["strftime_now"] = _strftime_now

    def compile_limited(self, source: str) -> Template:
        """A template whose loops, macros and concatenations report to the budget. Raises
        InputError."""
        if len(source) > MAX_SOURCE_CHARS:
            raise InputError(f"the chat template has more than {MAX_SOURCE_CHARS} characters")
        with _errors():
            _check_nesting(self.lex(source))
            tree = self.parse(source)
            _check_depth(tree)
            _charge(tree, self)
            return Template.from_code(self, self.compile(tree), self.make_globals(None))

    def render_limited(self, template: Template, variables: Mapping[str, Any]) -> str:
        """The text that a template gives. Raises InputError for whatever goes wrong in it."""
        self.budget = Budget()
        self._depth = 0
        out: list[str] = []
        size = 0
        with _errors():
            for piece in template.generate(dict(variables)):
                size += len(piece)
                self.budget.build(size if size > MAX_TEXT_CHARS else len(piece))
                out.append(piece)
        return "".join(out)

    # What the rewritten templates call.

    def turn(self, chars: int) -> bool:
        """Charge a turn; true, so that it can stand in a condition."""
        self.budget.turn(chars)
        return True

    def concat_text(self, *parts: Any) -> str:
        """The `~` operator."""
        texts = [str(part) for part in parts]
        self.budget.build(sum(map(len, texts)))
        return "".join(texts)

    # Hooks of the sandbox.

    def unsafe_undefined(self, obj: Any, attribute: str) -> Undefined:
        """Fail at once: Jinja2 would give an undefined value that is silently false in a
        condition."""
        raise SecurityError(
            f"access to attribute {attribute!r} of {type(obj).__name__!r} is forbidden"
        )

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        """Also refuses the ways of text that no limit here measures."""
        if isinstance(obj, str) and attr in ("translate", "maketrans", "encode"):
            return False
        return super().is_safe_attribute(obj, attr, value)

    def call(self, context: Context, obj: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Every call in a template."""
        owner = getattr(obj, "__self__", None)
        if isinstance(owner, str):
            self._measure(getattr(obj, "__name__", ""), owner, args, kwargs)
        if self._depth >= MAX_DEPTH:
            raise InputError("the chat template calls itself without end, or nests too deeply")
        self._depth += 1
        try:
            return self._built(super().call(context, obj, *args, **kwargs))
        finally:
            self._depth -= 1

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """+ * ** % with their results measured first."""
        if operator == "*":
            for value, times in ((left, right), (right, left)):
                if isinstance(value, (str, list, tuple)) and isinstance(times, int):
                    self.budget.build(len(value) * max(times, 0))
            if isinstance(left, int) and isinstance(right, int):
                _small(left.bit_length() + right.bit_length(), 4096, "a product's bits")
        elif operator == "**":
            _small(right, 64, "an exponent")
            _small(left, 1 << 32, "a power's base")
        elif operator == "%" and isinstance(left, str):
            self._pattern(left)
        elif operator == "+" and isinstance(left, (str, list, tuple)):
            self.budget.build(len(left) + (len(right) if hasattr(right, "__len__") else 0))
        return self._built(super().call_binop(context, operator, left, right))

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        """str.format, whose widths are measured."""
        if isinstance(getattr(value, "__self__", None), str) and value.__name__ == "format_map":
            raise SecurityError("access to attribute 'format_map' of 'str' is forbidden")
        sandboxed = super().wrap_str_format(value)
        if sandboxed is None:
            return None
        pattern: str = value.__self__

        def run(*args: Any, **kwargs: Any) -> str:
            self._pattern(pattern)
            if re.search(r"\{[^}]*\{", pattern):  # a width that comes from an argument: '{:{}}'
                for given in [*args, *kwargs.values()]:
                    self._pattern(str(given))
            result: str = sandboxed(*args, **kwargs)
            return result

        return run

    # Measures.

    def _limited(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def run(*args: Any, **kwargs: Any) -> Any:
            plain = args[1:] if hasattr(function, "jinja_pass_arg") else args
            if plain:
                if hasattr(plain[0], "__len__"):
                    self.budget.work(len(plain[0]))
                self._measure(name, plain[0], plain[1:], kwargs)
            return self._built(function(*args, **kwargs))

        return run

    def _measure(
        self, name: str, text: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> None:
        given = [*args, *kwargs.values()]
        if name == "replace" and isinstance(text, str) and len(given) >= 2:
            old, new = str(given[0]), str(given[1])
            self.budget.build(len(text) + text.count(old) * len(new))
        elif name == "join":
            # of the method the text is the glue; of the filter, the list
            glue, parts = (text, given[0] if given else ()) if isinstance(text, str) else ("", text)
            if glue is not text and given:
                glue = str(given[0])
            if hasattr(parts, "__len__"):
                lengths = sum(len(p) for p in parts if isinstance(p, str))
                self.budget.build(lengths + len(glue) * len(parts))
        elif name == "format":
            self._pattern(str(text))
            for value in given:
                if isinstance(value, int) and "*" in str(text):
                    _small(value, MAX_COUNT, "a width")
        elif name in _COUNTED:
            for value in given:
                if isinstance(value, int):
                    _small(value, MAX_COUNT, f"a number given to {name}")
                elif isinstance(value, str) and name == "indent":
                    self.budget.build(len(str(text).split("\n")) * len(value))
            if name in ("indent", "expandtabs") and isinstance(text, str):
                widest = max([v for v in given if isinstance(v, int)], default=8)
                self.budget.build(len(text) + (text.count("\n") + text.count("\t") + 1) * widest)

    def _pattern(self, text: str) -> None:
        for digits in re.findall(r"\d{5,}", text):
            _small(int(digits[:12]), MAX_COUNT, "a width")

    def _built(self, value: Any) -> Any:
        if isinstance(value, (str, list, tuple)):
            self.budget.build(len(value))
        elif isinstance(value, int):
            _small(value.bit_length(), 4096, "a number's bits")
        return value

    def _printed(self, value: Any) -> Any:
        self.budget.work(len(value) if hasattr(value, "__len__") else 1)
        return value

    def _range(self, *args: int) -> range:
        numbers = range(*args)
        if numbers and (abs(numbers[-1] - numbers[0]) // abs(numbers.step)) >= MAX_RANGE:
            raise InputError(f"the chat template asks for range{args}: at most {MAX_RANGE} numbers")
        return numbers


_COUNTED = frozenset(
    [
        *("center", "ljust", "rjust", "zfill", "expandtabs"),  # methods
        *("indent", "batch", "slice", "truncate", "wordwrap", "tojson", "round"),  # filters
    ]
)


def _small(value: Any, limit: int, what: str) -> None:
    if isinstance(value, (int, float)) and abs(value) > limit:
        raise InputError(f"the chat template goes beyond what is allowed: {what} above {limit}")


def _check_nesting(tokens: Iterable[tuple[int, str, str]]) -> None:
    """Refuse before parsing what the parser would recurse into: brackets, blocks, signs, inline ifs."""
    brackets = blocks = signs = choices = 0
    tag = ""  # the first word of the tag that is open
    for _, kind, value in tokens:
        if kind in ("whitespace", "data"):
            continue
        if kind in ("block_begin", "variable_begin"):
            brackets = signs = choices = 0
            tag = "" if kind == "block_begin" else "{{"
        elif kind == "block_end" and (tag in _OPENING or tag == "set"):
            # `set x = ...` opens nothing: its "=" made it "set=".
            blocks += 1
        elif kind == "name" and not tag:
            tag = value
            if value.startswith("end"):
                blocks -= 1
        elif value == "=" and tag == "set" and not brackets:
            tag = "set="
        elif value in ("(", "[", "{"):
            brackets += 1
        elif value in (")", "]", "}"):
            brackets -= 1
        elif kind == "name" and value == "if":
            choices += 1
        signs = signs + 1 if value in ("-", "+", "not") else 0
        if brackets > MAX_DEPTH or blocks > MAX_DEPTH or max(signs, choices) > MAX_DEPTH:
            raise InputError("the chat template nests too deeply")


_OPENING = frozenset("if for macro call filter block with autoescape generation".split())


def _check_depth(tree: nodes.Node) -> None:
    """Refuse what would be walked too deeply, such as a sum of hundreds of terms; without recursion."""
    level: list[nodes.Node] = [tree]
    for _ in range(MAX_TREE_DEPTH):
        level = [child for node in level for child in node.iter_child_nodes()]
        if not level:
            return
    raise InputError("the chat template nests too deeply")


def _charge(tree: nodes.Template, environment: LimitedEnvironment) -> None:
    """Put a charge into every loop turn, macro body and loop condition, and make `~` a call."""
    for node in list(tree.find_all((nodes.For, nodes.Macro, nodes.CallBlock))):
        assert isinstance(node, (nodes.For, nodes.Macro, nodes.CallBlock))
        fixed = sum(len(data.data) for part in node.body for data in _own_texts(part))
        tick = nodes.ExprStmt(_call("turn", [nodes.Const(fixed)]))
        node.body.insert(0, tick.set_lineno(node.lineno))
        if isinstance(node, nodes.For) and node.test is not None:
            test = nodes.And(_call("turn", [nodes.Const(0)]), node.test)
            node.test = test.set_lineno(node.lineno)
    _replace_concat(tree)
    tree.set_environment(environment)


def _own_texts(node: nodes.Node) -> list[nodes.TemplateData]:
    found = list(node.find_all(nodes.TemplateData))
    return [*found, node] if isinstance(node, nodes.TemplateData) else found


def _call(method: str, args: list[nodes.Expr]) -> nodes.Call:
    return nodes.Call(nodes.EnvironmentAttribute(method), args, [], None, None)


def _replace_concat(node: nodes.Node) -> None:
    for field, value in list(node.iter_fields()):
        if isinstance(value, nodes.Node):
            _replace_concat(value)
            if isinstance(value, nodes.Concat):
                call = _call("concat_text", value.nodes).set_lineno(value.lineno)
                setattr(node, field, call)
        elif isinstance(value, list):
            for index, item in enumerate(value):
                if isinstance(item, nodes.Node):
                    _replace_concat(item)
                    if isinstance(item, nodes.Concat):
                        call = _call("concat_text", item.nodes).set_lineno(item.lineno)
                        value[index] = call


class _Raised(Exception):
    """raise_exception was called."""


def _raise_exception(message: object) -> str:
    raise _Raised(str(message))


def _strftime_now(pattern: str) -> str:
    if len(str(pattern)) > 256:
        raise InputError(
            "the chat template gives strftime_now a pattern of more than 256 characters"
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
    """Whatever a template does wrong, as InputError."""
    try:
        yield
    except InputError:
        raise
    except _Raised as error:
        raise InputError(f"the chat template refuses these messages: {error}") from error
    except SecurityError as error:
        raise InputError(
            f"the chat template reaches for what it may not: {error}. "
            "Do not trust this model's files"
        ) from error
    except RecursionError as error:
        raise InputError(
            "the chat template calls itself without end, or nests too deeply"
        ) from error
    except TemplateError as error:
        line = getattr(error, "lineno", None)
        where = f" (line {line})" if line else ""
        raise InputError(f"the chat template fails{where}: {error}") from error
    except Exception as error:  # a template can make any operation of its values fail
        raise InputError(
            f"the chat template fails on these messages: {type(error).__name__}: {error}"
        ) from error
