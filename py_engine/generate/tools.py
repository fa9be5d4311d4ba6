"""Tools: checks those that a caller offers, and gives the calls that a model makes of them in OpenAI's form.

A model writes calls between two marks, in the syntax that its chat template shows it (ToolFormat). In later turns the
template shows them to the model again. Where it does not know `tool_calls`, ToolFormat writes them.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypedDict

from py_engine.arguments import shown
from py_engine.errors import InputError
from py_engine.generate.tool_schema import Schemas, violations
from py_engine.generate.tool_syntax import CallError, read
from py_engine.inputs.tokenizer import require_text

MAX_TOOLS = 512
MAX_NAME_CHARS = 256


class Function(TypedDict):
    """The function of a call. `arguments`: a JSON object as text."""

    name: str
    arguments: str


class ToolCall(TypedDict):
    """A call in the form of OpenAI's API. It goes back unchanged, in `tool_calls` of an assistant message."""

    id: str
    type: Literal["function"]
    function: Function


@dataclass(frozen=True)
class ToolFormat:
    """How a family writes calls: in blocks between `open` and `close`, a block for each call or one for all. If `close`
    is "", a block ends with the answer or at the next `open`. `inner`: further marks inside a call. `around`: the text
    after `open` and before `close`."""

    name: str
    open: str
    close: str
    write_one: Callable[[str, Mapping[str, Any]], str]
    one_a_block: bool = True
    around: tuple[str, str] = ("\n", "\n")
    inner: tuple[str, ...] = ()

    @property
    def ends(self) -> tuple[str, ...]:
        """The marks at both ends of a block, or only its opening mark if it has no closing one."""
        return (self.open, self.close) if self.close else (self.open,)

    def between(self, open: str, close: str) -> ToolFormat:
        """The same between other marks."""
        return replace(self, open=open, close=close)

    def pieces(self, calls: Sequence[tuple[str, Mapping[str, Any]]]) -> list[tuple[str, bool]]:
        """The text of calls as (text, is a mark) pieces."""
        written = [self.write_one(name, arguments) for name, arguments in calls]
        before, behind = self.around
        bodies = (
            [f"{before}{call}{behind}" for call in written]
            if self.one_a_block
            else [f"{before}{', '.join(written)}{behind}"]
        )
        pieces: list[tuple[str, bool]] = []
        for body in bodies:
            pieces += [("\n", False)] if pieces and self.close else []
            pieces += [(self.open, True), (body, False)]
            pieces += [(self.close, True)] if self.close else []
        return pieces


def _write_json(name: str, arguments: Mapping[str, Any]) -> str:
    return json.dumps({"name": name, "arguments": arguments}, ensure_ascii=False)


def _write_tags(name: str, arguments: Mapping[str, Any]) -> str:
    given = "".join(
        f"<parameter={key}>\n{value if isinstance(value, str) else _json(value)}\n</parameter>\n"
        for key, value in arguments.items()
    )
    return f"<function={name}>\n{given}</function>"


def _write_python(name: str, arguments: Mapping[str, Any]) -> str:
    # A Python literal: repr of what JSON can hold.
    return f"{name}({', '.join(f'{key}={value!r}' for key, value in arguments.items())})"


def json_calls(
    open: str, close: str, name_key: str = "name", arguments_key: str = "arguments"
) -> ToolFormat:
    """A list of JSON objects between these marks."""

    def write(name: str, arguments: Mapping[str, Any]) -> str:
        return json.dumps({name_key: name, arguments_key: arguments}, ensure_ascii=False)

    return ToolFormat("json", open, close, write, one_a_block=False, around=("[", "]"))


JSON_CALLS = ToolFormat("json", "<tool_call>", "</tool_call>", _write_json)
TAG_CALLS = ToolFormat("tags", "<tool_call>", "</tool_call>", _write_tags)
PYTHON_CALLS = ToolFormat(
    "python", "<|tool_call_start|>", "<|tool_call_end|>", _write_python,
    one_a_block=False, around=("[", "]"),
)  # fmt: skip
# OLMo 3: a call a line.
FUNCTION_CALLS = ToolFormat(
    "python", "<function_calls>", "</function_calls>", _write_python, around=("", "")
)
# Mistral: a JSON list, or name[ARGS]{...} each behind a mark of its own (Mistral Small 3.2, Devstral, Ministral 3).
MISTRAL_CALLS = replace(json_calls("[TOOL_CALLS]", ""), inner=("[CALL_ID]", "[ARGS]"))


def tool_calls(
    body: str, schemas: Schemas, closed: bool = False, final: bool = False
) -> tuple[list[ToolCall], list[str]]:
    """The calls in the text of one block, and in words how they break their schemas (they stay as written).

    `closed` and `final` as for `read`. Raises CallError when a call cannot be read, cannot be sent as JSON, or is of a
    function that was not offered.
    """
    found = read(body, schemas, closed, final)
    told: list[str] = []
    for name, arguments in found:
        if name not in schemas:
            raise CallError(f"{name[:40]!r} was not offered")
        told += [
            f"the call of {name!r} is kept, but {one}"
            for one in violations(arguments, schemas[name])
        ]
    return [_tool_call(name, arguments) for name, arguments in found], told


def _tool_call(name: str, arguments: Mapping[str, Any]) -> ToolCall:
    if len(name) > MAX_NAME_CHARS:
        raise CallError(f"its name has more than {MAX_NAME_CHARS} characters")
    try:
        text = _json(arguments)
        require_text(
            name + text, "it"
        )  # an escape may make half a character, which UTF-8 cannot hold
    except (ValueError, InputError) as error:
        raise CallError(str(error)) from error
    return {
        "id": f"call_{secrets.token_hex(8)}",
        "type": "function",
        "function": {"name": name, "arguments": text},
    }


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def check_tools(tools: Any) -> list[dict[str, Any]] | None:
    """The tools that a caller offers, checked; None for none.

    Each is {"type": "function", "function": {"name", "description", "parameters"}} or the inner object alone;
    `parameters` is a JSON schema of an object. Raises InputError naming the entry that is wrong.
    """
    if tools is None:
        return None
    if isinstance(tools, (str, bytes, Mapping)) or not isinstance(tools, Sequence):
        raise InputError("tools must be a list of {'type': 'function', 'function': {...}}")
    if len(tools) > MAX_TOOLS:
        raise InputError(f"tools: {len(tools)} given, at most {MAX_TOOLS}")
    names: set[str] = set()
    for index, tool in enumerate(tools):
        name = _check_tool(tool, f"tools[{index}]")
        if name in names:
            raise InputError(f"tools[{index}]: there are two tools named {shown(name)}")
        names.add(name)
    return [dict(tool) for tool in tools] or None


def _check_tool(tool: Any, where: str) -> str:
    if not isinstance(tool, Mapping):
        raise InputError(f"{where} must be an object, not {type(tool).__name__}")
    kind = tool.get("type", "function")
    if not isinstance(kind, str) or kind != "function":
        raise InputError(f"{where}: type {shown(kind)} is not known, only 'function' is")
    function = _function(tool)
    if not isinstance(function, Mapping):
        raise InputError(f"{where}.function must be an object with a name")
    name = function.get("name")
    if not isinstance(name, str) or not 0 < len(name) <= MAX_NAME_CHARS:
        raise InputError(f"{where}: a tool needs a name of 1 to {MAX_NAME_CHARS} characters")
    if not isinstance(function.get("description", ""), str):
        raise InputError(f"{where}: the description of {shown(name)} must be a str")
    parameters = function.get("parameters")
    if parameters is not None and not isinstance(parameters, Mapping):
        raise InputError(
            f"{where}: the parameters of {shown(name)} must be a JSON schema, an object"
        )
    properties = (parameters or {}).get("properties")
    if properties is not None and not isinstance(properties, Mapping):
        raise InputError(
            f"{where}: the properties in the schema of {shown(name)} must be an object"
        )
    for key, schema in (properties or {}).items():
        if not isinstance(schema, (Mapping, bool)):
            raise InputError(
                f"{where}: the schema of {shown(name)}, parameter {shown(key)}, must be an object"
            )
    return name


def schemas_of(tools: Sequence[Mapping[str, Any]] | None) -> Schemas:
    """For each function of checked tools, the JSON schema of its arguments; {} where a tool gives none."""
    functions = [_function(tool) for tool in tools or ()]
    return {f["name"]: f.get("parameters") or {} for f in functions}


def _function(tool: Mapping[str, Any]) -> Any:
    return tool.get("function", tool)
