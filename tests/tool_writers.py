"""Random tools with random arguments, each written in many ways that mean the same, for tests of tool calls."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping
from typing import Any

Call = tuple[str, dict[str, Any]]

WORDS = [
    *(
        "",
        "a",
        "Zürich",
        "it's",
        'say "hi" now',
        "dogs' bowl",
        "a, b=2",
        "x\ny",
        " two  spaces ",
        "3",
        "true",
        "None",
    ),
    *(
        "null",
        "[1, 2]",
        "{",
        "}",
        ")",
        "\\n",
        "\\",
        "名前🍜",
        "\t",
        "f(x='y')",
        "C:\\new",
        "</",
        "<b>",
        "# {x}",
    ),
    *("a=1", '", "b": 1', "', b='", "'''", '"""', "<think>", "1e5", "\u2028"),
]
PLAIN = ["a", "Zürich", "x y", "3", "true", "ab\ncd", "dogs"]  # without characters of any syntax
MARKS = [
    *(
        "<tool_call>",
        "</tool_call>",
        "<|tool_call_start|>",
        "<|tool_call_end|>",
        "<function=f>",
        "</function>",
    ),
    *("<parameter=x>", "</parameter>", "\n</parameter>\n", "</parameter>\n</function>"),
]
NAMES = ["x", "y", "from", "city", "max_results", "b", "class", "name", "args", "input", "größe"]
KINDS = ["string", "integer", "number", "boolean", "array", "object", "null"]


def text(chance: random.Random, words: list[str]) -> str:
    return "".join(chance.choices(words, k=chance.randint(0, 4)))


def value(chance: random.Random, kind: str, words: list[str], depth: int = 0) -> Any:
    """A value of one of JSON Schema's types."""
    if kind == "string":
        return text(chance, words)
    if kind == "integer":
        return chance.choice([0, -7, 42, 10**20])
    if kind == "number":
        return chance.choice([0.5, -2.25e-7, 1e300, 3])
    if kind == "boolean":
        return chance.random() < 0.5
    if kind == "null":
        return None
    inner = KINDS if depth < 3 else KINDS[:4]
    items = [
        value(chance, chance.choice(inner), words, depth + 1) for _ in range(chance.randint(0, 3))
    ]
    if kind == "array":
        return items
    return {
        chance.choice(["k", "a b", "it's", "ключ", ""]) + str(n): item
        for n, item in enumerate(items)
    }


def tool_and_call(
    chance: random.Random, name: str, words: list[str]
) -> tuple[dict[str, Any], Call]:
    """An offered tool, and arguments that its schema allows."""
    properties: dict[str, Any] = {}
    arguments: dict[str, Any] = {}
    for key in chance.sample(NAMES, chance.randint(0, 5)):
        kind = chance.choice(KINDS[:6])
        properties[key] = {"type": kind}
        if chance.random() < 0.2:
            properties[key] = {"anyOf": [{"type": kind}, {"type": "null"}]}
            kind = chance.choice([kind, "null"])
        if chance.random() < 0.8:
            arguments[key] = value(chance, kind, words)
    # A text that looks like null, where null is allowed too: tags cannot tell the two apart.
    for key, item in arguments.items():
        if "anyOf" in properties[key] and isinstance(item, str):
            arguments[key] = "plain " + item.replace("\n", " ")
    function = {"name": name, "parameters": {"type": "object", "properties": properties}}
    return {"type": "function", "function": function}, (name, arguments)


def json_ways(name: str, arguments: Mapping[str, Any]) -> list[str]:
    """The same call as JSON, with each key that models use, in JSON's and Python's literals."""
    ways: list[str] = []
    for key in ("arguments", "parameters", "args", "input"):
        ways.append(json.dumps({"name": name, key: arguments}, ensure_ascii=False))
    ways.append(json.dumps({"name": name, "arguments": arguments}, indent=2))
    ways.append(json.dumps({"arguments": arguments, "name": name}))
    ways.append(json.dumps({"name": name, "arguments": json.dumps(arguments)}))
    ways.append(
        json.dumps(
            {"id": "call_1", "type": "function", "function": {"name": name, "arguments": arguments}}
        )
    )
    ways.append(json.dumps([{"function": name, "arguments": arguments}]))
    ways.append(repr({"name": name, "arguments": arguments}))
    ways.append("```json\n" + json.dumps({"name": name, "arguments": arguments}) + "\n```")
    if arguments and "name" not in arguments:
        ways.append(json.dumps({"name": name, **arguments}))
    return ways


def python_ways(name: str, arguments: Mapping[str, Any]) -> list[str]:
    """The same call as a Python call, with Python's and with JSON's literals."""
    ways: list[str] = []
    for literal in (repr, lambda item: json.dumps(item, ensure_ascii=False)):
        given = [f"{key}={literal(item)}" for key, item in arguments.items()]
        one = f"{name}({', '.join(given)})"
        spaced = f"{name}(\n    " + ",\n    ".join(given) + (",\n)" if given else ")")
        ways += [one, f"[{one}]", f"[{one},]", f"[ {spaced} ]"]
    return ways


def tag_ways(name: str, arguments: Mapping[str, Any]) -> list[str]:
    """The same call as tags. Values are as the templates print them: lists and objects as JSON, everything else as
    Jinja does."""

    def shown(item: Any, literal: Callable[[Any], str]) -> str:
        return item if isinstance(item, str) else literal(item)

    ways: list[str] = []
    for literal in (json.dumps, repr):
        lines = [
            f"<parameter={key}>\n{shown(item, literal)}\n</parameter>\n"
            for key, item in arguments.items()
        ]
        ways.append(f"<function={name}>\n{''.join(lines)}</function>")
        ways.append(f"\n<function={name}>{''.join(lines).rstrip()}</function>\n")
    return ways


WAYS: dict[str, Callable[[str, Mapping[str, Any]], list[str]]] = {
    "json": json_ways,
    "tags": tag_ways,
    "python": python_ways,
}
