"""Tool calls: the caller gets what a model writes, and it goes back unchanged; nothing is lost, whatever it is."""

from __future__ import annotations

import asyncio
import json
import random
from pathlib import Path
from typing import Any

import pytest

from py_engine.errors import InputError
from py_engine.generate.loose_calls import MAX_CALL_CHARS
from py_engine.generate.marks import Markup
from py_engine.generate.markup import Splitter
from py_engine.generate.stream import TextStream
from py_engine.generate.tool_schema import typed
from py_engine.generate.tool_syntax import CallError, inside_value, read
from py_engine.generate.tools import check_tools, schemas_of, tool_calls
from py_engine.inputs.chat_template import ChatTemplate
from py_engine.inputs.tokenizer import Tokenizer
from tests.chat_formats import QWEN3, WITH_TOOLS, ChatFormat, chat_format, make

TOOLS: list[dict[str, Any]] = [
    {
        "type": "function",
        "function": {
            "name": "book",
            "description": "Book a table.",
            "parameters": {
                "type": "object",
                "properties": {
                    "where": {"type": "string"},
                    "people": {"type": "integer"},
                    "price": {"type": "number"},
                    "outside": {"type": "boolean"},
                    "dishes": {"type": "array"},
                    "guest": {"type": "object"},
                    "note": {"type": ["string", "null"]},
                    "from": {"anyOf": [{"type": "string"}, {"type": "integer"}]},
                },
            },
        },
    },
    {"type": "function", "function": {"name": "größe", "parameters": {"type": "object"}}},
    {"type": "function", "function": {"name": "f"}},
    {"type": "function", "function": {"name": "g"}},
]
CALLS: list[tuple[str, dict[str, Any]]] = [
    ("book", {"where": "Zürich", "people": 3, "price": 1.5, "outside": True}),
    ("book", {"where": "a\nb", "dishes": ["röst", {"x": [1, 2.5, None, False]}], "note": None}),
    ("book", {"guest": {"name": "Ada", "age": 36, "deep": {"a": [[[]]]}}, "from": "ZRH"}),
    ("book", {"where": "42", "outside": False, "from": 8, "note": "it's a dog's day, really"}),
    ("book", {"where": "", "note": 'say "hi" </tool_call> <|im_end|> <b>'}),
    ("größe", {}),
    ("größe", {"名前": "ラーメン 🍜", "x": '{"not": "typed"}'[1:-1]}),
]
USER = [{"role": "user", "content": "go"}]


def as_openai(calls: list[tuple[str, dict[str, Any]]], text: bool) -> list[dict[str, Any]]:
    """Calls as a message holds them, with arguments as JSON text or as objects."""
    return [
        {
            "id": f"call_{i}",
            "type": "function",
            "function": {"name": name, "arguments": json.dumps(given) if text else given},
        }
        for i, (name, given) in enumerate(calls)
    ]


def plain(calls: Any) -> list[tuple[str, dict[str, Any]]]:
    return [(c["function"]["name"], json.loads(c["function"]["arguments"])) for c in calls]


def answered(form: ChatFormat, message: dict[str, Any]) -> list[int]:
    """The ids of the last turn, as the template writes it."""
    ids = form.template.encode([*USER, message], TOOLS, add_generation_prompt=False)
    start = len(ids) - 1 - ids[::-1].index(form.tokenizer.control["<|im_start|>"])
    role = form.tokenizer.encode("assistant\n")
    assert ids[start + 1 : start + 1 + len(role)] == role
    return ids[start + 1 + len(role) :]


def stream_of(form: ChatFormat, tools: Any = TOOLS, **options: Any) -> TextStream:
    splitter = Splitter(form.markup, tools, options.pop("thinking", False))
    decoder = form.tokenizer.decoder(keep=splitter.ids)
    return TextStream(decoder, stop_ids=form.tokenizer.stop_ids, splitter=splitter, **options)


def written(form: ChatFormat, text: str, tools: Any = TOOLS, **options: Any) -> TextStream:
    """A finished stream of an answer. Its marks are tokens where the model has them."""
    stream = stream_of(form, tools, **options)
    stream.push([*form.tokenizer.encode(text, control=True), *form.tokenizer.stop_ids])
    return stream


@pytest.mark.parametrize("name", WITH_TOOLS)
@pytest.mark.parametrize("text", [True, False], ids=["text", "objects"])
def test_a_call_written_by_the_template_is_read_back(name: str, text: bool) -> None:
    form = chat_format(name)
    for calls in [*([call] for call in CALLS), CALLS[:3], [CALLS[5], CALLS[0], CALLS[5]]]:
        if name == "lfm2.5" and any("<|im_end|>" in str(call) for call in calls):
            calls = [("book", {"where": "", "note": 'say "hi" </tool_call> <b>'})]
        message = {"role": "assistant", "content": None, "tool_calls": as_openai(calls, text)}
        stream = stream_of(form)
        stream.push(answered(form, message))
        assert plain(stream.tool_calls) == calls, form.template.render([*USER, message], TOOLS)
        assert (stream.text, stream.finish_reason) == ("", "tool_calls")
        assert stream.errors == []


@pytest.mark.parametrize("name", WITH_TOOLS)
def test_text_before_calls_and_how_ids_are_cut_makes_no_difference(name: str) -> None:
    form = chat_format(name)
    message = {
        "role": "assistant",
        "content": "I look.",
        "tool_calls": as_openai(CALLS[:2], True),
    }
    ids = answered(form, message)
    chance = random.Random(3)
    for _ in range(6):
        stream, at, deltas = stream_of(form), 0, []
        while at < len(ids):
            step = chance.randint(1, 40)
            deltas.append(stream.push(ids[at : at + step]))
            at += step
        assert "".join(delta.text for delta in deltas) == "I look." == stream.text
        calls = [call for delta in deltas for call in delta.tool_calls]
        assert calls == stream.tool_calls and plain(calls) == CALLS[:2]
        assert len({call["id"] for call in calls}) == 2


def test_the_format_is_seen_in_template_and_tokens() -> None:
    names = {n: chat_format(n).markup.calls for n in (*WITH_TOOLS, "gemma")}
    found = {name: form and form.name for name, form in names.items()}
    assert found == {
        "qwen3": "json",
        "qwen3.5": "tags",
        "lfm2": "python",
        "lfm2.5": "python",
        "gemma": None,
    }
    assert [chat_format(n).markup.thinks for n in found] == [True, True, False, True, False]
    spelled = make(QWEN3, ["<|endoftext|>", "<|im_start|>", "<|im_end|>"], [])
    assert spelled.markup == Markup(True, names["qwen3"], {})


def test_marks_that_are_no_tokens_are_found_in_the_text() -> None:
    form = make(QWEN3, ["<|endoftext|>", "<|im_start|>", "<|im_end|>"], [])
    text = (
        '<think>\nhm < </ <th\n</think>\n\nA <b> <tool_cal\n<tool_call>{"name": "f"}</tool_call>\n'
    )
    stream = stream_of(form)
    shown = [stream.push([i]) for i in [*form.tokenizer.encode(text), *form.tokenizer.stop_ids]]
    assert stream.reasoning == "hm < </ <th" == "".join(d.reasoning for d in shown)
    assert stream.text == "A <b> <tool_cal" == "".join(d.text for d in shown)
    assert plain(stream.tool_calls) == [("f", {})]


def test_spelled_out_marks_are_text_where_marks_are_tokens() -> None:
    form = chat_format("qwen3")
    text = '<think>no</think> <tool_call>{"name": "f"}</tool_call>'
    ids = [*form.tokenizer.encode(text), *form.tokenizer.stop_ids]
    stream = stream_of(form, tools=None)
    stream.push(ids)
    assert (stream.text, stream.reasoning, stream.tool_calls) == (text, "", [])
    assert stream.finish_reason == "stop"
    # With tools on offer a spelled call is a call: a small real model was seen to write this.
    stream = stream_of(form, tools=TOOLS)
    stream.push(ids)
    assert (stream.text, stream.reasoning) == ("<think>no</think>", "")
    assert plain(stream.tool_calls) == [("f", {})]


BROKEN = [
    "not a call",
    "{}",
    '{"name": 3}',
    '{"name": ""}',
    '{"name": "f", "arguments": [1]}',
    '{"name": "f", "arguments": "{"}',
    '{"name": "f", "arguments": {"a": 1, "a": 2}}',
    '{"name": "f", "arguments": {"a": NaN}}',
    '{"name": "f", "arguments": {"a": 1e999}}',
    '{"name": "f", "arguments": {"a": "\\ud800"}}',
    '{"name": "f", "arguments": ' + '{"a": ' * 100 + "1" + "}" * 101,
    "{" * 5000,
    '{"name": "f"',
    '{"name": "' + "f" * 300 + '"}',
    "[]",
    "<function=f>",
    "<function=f><parameter=a>1</parameter><parameter=a>2</parameter></function>",
    "<function=f><parameter=a>1</function>",
    "<function=f></function>and more",
    "f(",
    "f(1)",
    "f(a=)",
    "f(a=b)",
    "f(a=1, a=2)",
    "f(a='x)",
    "f(a=__import__('os').system('true'))",
    "f(a=(lambda: 1)())",
    "f(a=" + "[" * 5000 + ")",
    "f(a=" + "-" * 5000 + "1)",
    "f(a=" + "9" * 5000 + ")",
    "f(a=1e999)",
    "[f()] and g()",
    "[f() g()]",
    "",
]


@pytest.mark.parametrize("name", WITH_TOOLS)
@pytest.mark.parametrize("body", BROKEN, ids=lambda body: body[:30] or "empty")
def test_a_call_that_cannot_be_read_stays_text_and_is_told(name: str, body: str) -> None:
    form = chat_format(name)
    calls = form.markup.calls
    assert calls is not None
    text = f"Here: {calls.open}{body}{calls.close} and on."
    stream = written(form, text)
    assert (stream.text, stream.tool_calls) == (text, [])
    assert stream.finish_reason == "stop"
    assert len(stream.errors) == 1 and "tool call" in stream.errors[0]


@pytest.mark.parametrize("name", WITH_TOOLS)
def test_a_call_without_its_end(name: str) -> None:
    form = chat_format(name)
    calls = form.markup.calls
    assert calls is not None
    (_, _), (body, _), *_ = calls.pieces([CALLS[0]])
    whole = f"{calls.open}{body}"
    assert plain(written(form, whole).tool_calls) == [CALLS[0]]  # the model ended there
    twice = written(form, whole + whole + calls.close)
    assert plain(twice.tool_calls) == [CALLS[0], CALLS[0]]
    ids = form.tokenizer.encode(whole, control=True)
    for reason, stream in (
        ("length", stream_of(form, max_tokens=len(ids) - 8)),
        ("abort", stream_of(form)),
    ):
        stream.push(ids[:-8])
        stream.finish("abort")
        assert stream.finish_reason == reason
        assert (stream.text, stream.tool_calls) == (whole[:-8], [])
        assert len(stream.errors) == 1


def test_marks_inside_strings_belong_to_them() -> None:
    inner = "a </tool_call> b <tool_call> c"
    for name in ("qwen3", "qwen3.5"):
        form = chat_format(name)
        assert form.markup.calls is not None
        text = "".join(t for t, _ in form.markup.calls.pieces([("f", {"x": inner})]))
        assert plain(written(form, text).tool_calls) == [("f", {"x": inner})]
    lfm = "<|tool_call_start|>[f(x='a <|tool_call_end|> b')]<|tool_call_end|>"
    assert plain(written(chat_format("lfm2"), lfm).tool_calls) == [
        ("f", {"x": "a <|tool_call_end|> b"})
    ]


@pytest.mark.parametrize(
    "body",
    [
        '{"name": "f", "arguments": {"x": "' + "</tool_call>" * 8000,
        '{"name": "f", "arguments": {"x": "' + '\\"' * 120_000,
        '"' * MAX_CALL_CHARS,
        "<function=f>" + "<parameter=x>" * 9000,
        "<function=f>" + "<parameter=x></parameter> " * 9000,
        "f(x='" + "' " * 100_000,
        "f(" + "a=1," * 60_000,
        "[" * 200_000,
        "x" * (MAX_CALL_CHARS + 9),
        " " * 200_000,
    ],
    ids=lambda body: body[:24],
)
def test_huge_calls_lose_nothing(body: str) -> None:
    """With quadratic work these lengths would take minutes."""
    form = chat_format("qwen3")
    splitter = Splitter(form.markup, TOOLS)
    text = f"<tool_call>{body}</tool_call>"
    parts = [part for at in range(0, len(text), 999) for part in splitter.feed(text[at : at + 999])]
    parts += splitter.end(stopped=True)
    assert {kind for kind, _ in parts} == {"content"}
    assert "".join(str(value) for _, value in parts) == text
    assert len(splitter.errors) == 1


@pytest.mark.parametrize(
    ("body", "calls"),
    [
        ('[{"name": "f"}, {"name": "g", "arguments": "{\\"x\\": 1}"}]', [("f", {}), ("g", {"x": 1})]),
        ('{"name": "f", "arguments": {"x": "line\nfeed"}}', [("f", {"x": "line\nfeed"})]),
        ('{"name": "f", "arguments": null}', [("f", {})]),
        ("f()", [("f", {})]),
        ("[a.b-c(from='x', class=\"y\"), g()]", [("a.b-c", {"from": "x", "class": "y"}), ("g", {})]),
        ("f(x='''a 'b'\n\"c\"''')", [("f", {"x": "a 'b'\n\"c\""})]),
        (r"f(x='\u00e9\n\x41\101\d', y='')", [("f", {"x": "é\nAA\\d", "y": ""})]),
        ("f(x=[1, -2.5e3, 1_000,], y=(True, false, null), z={'k': {}})",
         [("f", {"x": [1, -2500.0, 1000], "y": [True, False, None], "z": {"k": {}}})]),
        ("<function=f><parameter=x>raw </parameter> in it</parameter></function>",
         [("f", {"x": "raw </parameter> in it"})]),
        ("<function=f>\n</function>\n<function=g>\n<parameter=y>\n\n1\n\n</parameter>\n</function>",
         [("f", {}), ("g", {"y": "\n1\n"})]),
    ],
)  # fmt: skip
def test_what_the_syntaxes_allow(body: str, calls: list[Any]) -> None:
    assert read(body, {}) == calls


@pytest.mark.parametrize(
    ("text", "schema", "value"),
    [
        ("3", {"type": "string"}, "3"),
        ("3", {"type": "integer"}, 3),
        ("3.0", {"type": "integer"}, 3),
        ("3.5", {"type": "integer"}, "3.5"),
        ("3", {"type": "number"}, 3),
        ("True", {"type": "boolean"}, True),
        ("false", {"type": "boolean"}, False),
        ("yes", {"type": "boolean"}, "yes"),
        ("None", {"type": ["string", "null"]}, None),
        ("null", {"anyOf": [{"type": "integer"}, {"type": "null"}]}, None),
        ("[1, 2]", {"type": "array"}, [1, 2]),
        ("[1, 2", {"type": "array"}, "[1, 2"),
        ('{"a": 1}', {"type": "object"}, {"a": 1}),
        ('{"a": 1}', {"type": "string"}, '{"a": 1}'),
        ('{"a": 1}', None, {"a": 1}),
        ("7", None, "7"),
        ("7", {"enum": [7]}, 7),
        ("7", {"enum": ["7", "8"]}, "7"),
        ("7", True, "7"),
        ("7", {"type": 7}, "7"),
        ("7", {"anyOf": 7, "oneOf": [7, {"type": [7]}]}, "7"),
    ],
)
def test_values_are_typed_by_the_schema(text: str, schema: Any, value: Any) -> None:
    got = typed(text, schema)
    assert (got, type(got)) == (value, type(value))


def test_reading_never_fails_otherwise() -> None:
    """Calls with pieces removed, added and doubled are read, or refused with a reason."""
    chance = random.Random(5)
    calls = [("f", {"x": 1, "y": "a 'b'", "z": {"k": [True, None, 2.5]}}), ("g", {})]
    formats = [form.markup.calls for form in map(chat_format, WITH_TOOLS)]
    bodies = ["".join(t for t, mark in f.pieces(calls) if not mark) for f in formats if f]
    signs = ["</parameter>", "<function=f>", "\\u12", "\x00", *"{}[]()<>=,:'\"\\-1e \n"]
    schemas = {"f": {"properties": {"x": {"type": "integer"}, "y": {}, "z": {}}}, "g": {}}
    results = {True: 0, False: 0}
    for _ in range(10_000):
        body = chance.choice(bodies)
        for _ in range(chance.randint(0, 3)):
            at, width = chance.randrange(len(body)), chance.randint(0, 4)
            more = chance.choice([chance.choice(signs), body[at : at + 2 * width]])
            body = body[:at] + more + body[at + width :]
        inside_value(body)
        try:
            results[bool(tool_calls(body, schemas)[0])] += 1
        except CallError:
            results[False] += 1
    assert min(results.values()) > 1000


@pytest.mark.parametrize(
    ("tools", "told"),
    [
        ("book", "list"),
        ({"type": "function"}, "list"),
        ([3], r"tools\[0\]"),
        ([{"type": "function"}], r"tools\[0\]: a tool needs a name"),
        ([{"type": "retrieval", "function": {"name": "f"}}], "'retrieval'"),
        ([{"type": "function", "function": "f"}], r"tools\[0\].function"),
        ([{"function": {"name": ""}}], "name"),
        ([{"function": {"name": "f", "parameters": []}}], "parameters of 'f'"),
        ([{"function": {"name": "f", "parameters": {"properties": []}}}], "properties"),
        (
            [{"function": {"name": "f", "parameters": {"properties": {"x": 3}}}}],
            "'f', parameter 'x'",
        ),
        ([{"function": {"name": "f", "description": 3}}], "description"),
        ([{"name": "f"}, {"function": {"name": "f"}}], r"tools\[1\].*two tools named 'f'"),
        ([{"name": str(i)} for i in range(600)], "512"),
    ],
)
def test_tools_are_checked(tools: Any, told: str) -> None:
    with pytest.raises(InputError, match=told):
        check_tools(tools)


def test_tools_in_both_shapes() -> None:
    inner = TOOLS[0]["function"]
    assert check_tools(None) is None and check_tools([]) is None
    assert check_tools([inner]) == [inner] and check_tools(TOOLS) == TOOLS
    assert schemas_of([inner])["book"] == inner["parameters"]
    assert schemas_of([{"name": "f", "parameters": None}]) == {"f": {}}


def test_the_real_template_of_qwen25() -> None:
    """Qwen2.5-Coder's own files, if a package brought them (`./dev models`)."""
    folder = Path(__file__).parents[1] / ".models/local/Qwen2.5-Coder-0.5B-Instruct-4bit"
    if not folder.is_dir():
        pytest.skip("the packaged model is not here")
    config = json.loads((folder / "tokenizer_config.json").read_text())
    data = (folder / "tokenizer.json").read_bytes()
    tokenizer = asyncio.run(Tokenizer.load(data, config))
    template = ChatTemplate(config["chat_template"], tokenizer)
    form = ChatFormat(tokenizer, template, Markup.of(tokenizer, template.source))
    assert form.markup.calls is not None and form.markup.calls.name == "json"
    assert not form.markup.thinks
    for call in CALLS:
        message = {"role": "assistant", "content": "", "tool_calls": as_openai([call], True)}
        ids = template.encode([*USER, message], TOOLS, add_generation_prompt=False)
        start = len(ids) - 1 - ids[::-1].index(tokenizer.control["<|im_start|>"])
        stream = stream_of(form)
        stream.push(ids[start + 1 :])
        assert plain(stream.tool_calls) == [call]
    tokenizer.close()
