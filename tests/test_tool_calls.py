"""Tool calls as models really write them: a clear meaning is read, a doubtful call stays text and is reported.

The right values come from independent sources: `json` and `ast.literal_eval` for literals, and for whole texts the
results of the parsers of vLLM, ollama and others, or reports of what those got wrong (tool_call_cases.py).
"""

from __future__ import annotations

import ast
import json
import random
import time
from typing import Any

import pytest

from py_engine.generate.loose_calls import MAX_CALL_CHARS
from py_engine.generate.markup import Splitter
from py_engine.generate.tool_literals import CallError, Literals, load_literal
from py_engine.generate.tool_schema import typed, violations
from py_engine.generate.tool_syntax import begins_call, inside_value, read
from py_engine.generate.tools import schemas_of, tool_calls
from tests.chat_formats import QWEN3, QWEN35, ChatFormat, chat_format, make
from tests.test_tools import plain, stream_of, written
from tests.tool_call_cases import OURS, PUBLISHED, REFUSED, TOOLS
from tests.tool_writers import MARKS, PLAIN, WAYS, WORDS, tool_and_call, value

FORMS = {"json": "qwen3", "tags": "qwen3.5", "python": "lfm2.5"}


SCHEMAS = schemas_of(TOOLS)


def form_of(syntax: str, spelled: bool = False) -> ChatFormat:
    if not spelled:
        return chat_format(FORMS[syntax])
    marks = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    return make({"json": QWEN3, "tags": QWEN35}[syntax], marks, [])


def block(syntax: str, body: str) -> str:
    calls = form_of(syntax).markup.calls
    assert calls is not None
    return f"{calls.open}{body}{calls.close}"


def cut(
    form: ChatFormat, text: str, tools: Any, chance: random.Random
) -> tuple[Any, str, str, list[str]]:
    """(calls, text, thinking, errors) of a complete answer whose text comes in random pieces."""
    splitter = Splitter(form.markup, tools)
    parts, at = [], 0
    while at < len(text):
        width = chance.choice([1, 3, 10, 200])
        parts += splitter.feed(text[at : at + width])
        at += width
    parts += splitter.end(stopped=True)
    said = {
        kind: "".join(str(p[1]) for p in parts if p[0] == kind) for kind in ("content", "reasoning")
    }
    calls = plain([part[1] for part in parts if part[0] == "call"])
    return calls, said["content"], said["reasoning"], splitter.errors


def exact(item: Any) -> Any:
    """Values with their types, because 1, 1.0 and True are equal in Python."""
    if isinstance(item, dict):
        return {key: exact(one) for key, one in item.items()}
    if isinstance(item, (list, tuple)):
        return [exact(one) for one in item]
    return type(item).__name__, item


# ---- what stands inside a call


@pytest.mark.parametrize(
    ("syntax", "body", "calls"), [c[1:] for c in PUBLISHED], ids=[c[0] for c in PUBLISHED]
)
def test_what_others_read_is_read(syntax: str, body: str, calls: list[Any]) -> None:
    text = block(syntax, body)
    for _ in range(3):
        found = cut(form_of(syntax), text, TOOLS, random.Random(1))
        assert (exact(found[0]), *found[1:]) == (exact(calls), "", "", [])
    assert plain(written(form_of(syntax), text, TOOLS).tool_calls) == calls  # the marks are tokens


@pytest.mark.parametrize(
    ("syntax", "body", "calls"), [c[1:] for c in OURS], ids=[c[0] for c in OURS]
)
def test_what_is_not_in_doubt_is_read(syntax: str, body: str, calls: list[Any]) -> None:
    found = cut(form_of(syntax), block(syntax, body), TOOLS, random.Random(2))
    assert (exact(found[0]), *found[1:]) == (exact(calls), "", "", [])


@pytest.mark.parametrize(
    ("syntax", "body", "told"), [c[1:] for c in REFUSED], ids=[c[0] for c in REFUSED]
)
def test_what_is_in_doubt_stays_text_and_is_told(syntax: str, body: str, told: str) -> None:
    text = f"Well. {block(syntax, body)} So."
    calls, content, _, errors = cut(form_of(syntax), text, TOOLS, random.Random(3))
    assert (calls, content) == ([], text)
    assert errors and told in errors[0] and errors[0].startswith("a tool call was left as text")


# ---- what the schema allows


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"city": "x", "days": 3}, []),
        ({"city": "x", "days": 3.0}, []),
        ({}, ["city is missing"]),
        ({"city": None}, ["city is null, not of type string"]),
        ({"city": "x", "days": "3"}, ['days is "3", not of type integer']),
        ({"city": "x", "days": True}, ["days is true, not of type integer"]),
        ({"city": "x", "town": 1}, ["it has no parameter 'town'"]),
    ],
)
@pytest.mark.parametrize("syntax", ["json", "python"])
def test_a_call_that_the_schema_does_not_allow_is_kept_and_told(
    syntax: str, arguments: dict[str, Any], told: list[str]
) -> None:
    text = block(syntax, WAYS[syntax]("weather", arguments)[0])
    calls, content, _, errors = cut(form_of(syntax), text, TOOLS, random.Random(4))
    assert (exact(calls), content) == (exact([("weather", arguments)]), "")
    assert errors == [f"the call of 'weather' is kept, but {one}" for one in told]


REFERS = {
    "$defs": {
        "Unit": {"enum": ["c", "f"], "type": "string"},
        "Place": {"type": "object", "properties": {"lat": {"type": "number"}}, "required": ["lat"]},
        "Tree": {"type": "object", "properties": {"kids": {"type": "array", "items": {"$ref": "#/$defs/Tree"}}}},
    },
    "properties": {
        "unit": {"$ref": "#/$defs/Unit"},
        "place": {"anyOf": [{"$ref": "#/$defs/Place"}, {"type": "null"}]},
        "tree": {"allOf": [{"$ref": "#/$defs/Tree"}]},
        "n": {"type": "float", "minimum": 0, "exclusiveMaximum": 9},
        "list": {"type": ["array", "null"], "items": {"type": "integer"}, "maxItems": 2},
        "one": {"const": 1},
        "date": {"type": "date"},
    },
    "additionalProperties": False,
}  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (
            {
                "unit": "c",
                "place": None,
                "tree": {"kids": [{"kids": []}]},
                "n": 1,
                "list": [1],
                "one": 1,
                "date": "x",
            },
            [],
        ),
        ({"unit": "k"}, ['unit is "k", none of ["c", "f"]']),
        ({"place": {}}, ["place is {}, none of the choices of its schema (place.lat is missing)"]),
        ({"tree": {"kids": [{"kids": 3}]}}, ["tree.kids[0].kids is 3, not of type array"]),
        ({"n": -1}, ["n is -1, not at least 0"]),
        ({"n": 9}, ["n is 9, not less than 9"]),
        (
            {"list": [1, "2", 3]},
            [
                'list is [1, "2", 3], not of a length of at most 2',
                'list[1] is "2", not of type integer',
            ],
        ),
        ({"one": True}, ["one is true, none of [1]"]),
        ({"x": 1}, ["it has no parameter 'x'"]),
    ],
)
def test_schemas_that_refer_and_choose(arguments: dict[str, Any], told: list[str]) -> None:
    assert violations(arguments, REFERS) == told


def test_a_schema_that_means_nothing_or_itself_allows_all_in_time() -> None:
    for odd in (
        {"$ref": "#"},
        {"allOf": [{"$ref": "#"}] * 9, "anyOf": [{"$ref": "#"}] * 9},
        {"type": 7, "items": 3},
        {"properties": {"x": {"$ref": "#/properties/x"}}},
        {"required": "x", "enum": 3},
        True,
        None,
    ):
        begun = time.perf_counter()
        assert violations({"x": [{}] * 50}, odd) == []
        deep: Any = {}
        for _ in range(60):
            deep = {"x": [deep]}
        assert violations(deep, odd) == []
        assert typed("3", odd, odd) in ("3", 3)
        assert time.perf_counter() - begun < 5


# ---- marks


@pytest.mark.parametrize("syntax", FORMS)
def test_marks_missing_or_doubled(syntax: str) -> None:
    form = form_of(syntax)
    marks = form.markup.calls
    assert marks is not None
    (_, _), (body, _), _ = marks.pieces([("bash", {"command": "a"})])
    body, want = body.strip(), [("bash", {"command": "a"})]
    whole = marks.open + body + marks.close
    chance = random.Random(5)
    for text in (
        marks.open + body,
        marks.open + whole,
        marks.open + "\n" + whole,
        whole + marks.close,
        whole + "\n" + marks.close + "\n",
        body + marks.close,
        body,
        f"\n{body}\n{marks.close}\n",
    ):
        calls, content, _, errors = cut(form, text, TOOLS, chance)
        assert (calls, content.strip(), errors) == (want, "", []), text
    two = f"{marks.open}{body}{whole}"
    assert cut(form, two, TOOLS, chance)[0] == want * 2
    # A call on a line of its own, after other words and with its closing mark, is no example.
    if syntax != "python":
        got = cut(form, f"I look.\n{body}{marks.close} Wait.", TOOLS, chance)
        assert (got[0], got[1], got[3]) == (want, "I look.\nWait.", [])
    # Without any mark it may be an example. Text that was already sent is not taken back.
    for text in (f"I would write\n{marks.open[:3]} {body}", f"I look: {body}{marks.close}", f"{body}\nDone.",
                 f"{body}{marks.close[:-1]}", f"Hm {marks.close}"):  # fmt: skip
        calls, content, _, errors = cut(form, text, TOOLS, chance)
        assert (calls, content) == ([], text)
        assert errors or text.startswith("I would"), text


@pytest.mark.parametrize("syntax", FORMS)
def test_without_tools_nothing_is_a_call(syntax: str) -> None:
    form = form_of(syntax)
    for body in WAYS[syntax]("bash", {"command": "a"}):
        for text in (block(syntax, body), body):
            stream = written(form, text, tools=None)
            assert (stream.text, stream.tool_calls, stream.errors) == (
                text,
                [],
                [],
            )
            assert stream.finish_reason == "stop"


def test_a_call_behind_a_broken_one_is_found() -> None:
    broken = '<tool_call>{"name": "bash", "arguments": {"command": "a}}</tool_call>'
    good = '<tool_call>{"name": "now", "arguments": {}}</tool_call>'
    calls, content, _, errors = cut(
        form_of("json"), f"{broken} and {good}", TOOLS, random.Random(6)
    )
    assert (calls, content.strip(), len(errors)) == ([("now", {})], f"{broken} and", 1)


def test_an_answer_of_json_that_is_no_call_is_text() -> None:
    form = form_of("json")
    for text in (
        '{"id": 1, "title": "x"}',
        '{"name": "Bob"}',
        "[1, 2]",
        '[{"a": 1}]',
        "now or never",
        "now",
        "<b>",
        "{",
    ):
        calls, content, _, errors = cut(form, text, TOOLS, random.Random(7))
        assert (calls, content) == ([], text)
        assert errors == []
    stream = stream_of(form, TOOLS)
    shown = [stream.push([i]).text for i in form.tokenizer.encode('{"name": "Bob", "age": 3}')]
    assert "".join(shown[:14]) == '{"name": "Bob"'  # it does not wait for the end


def test_a_family_without_marks() -> None:
    """Llama 3 writes only the call; its template has no marks."""
    form = chat_format("gemma")
    assert form.markup.calls is None
    text = '{"name": "weather", "parameters": {"city": "x", "days": 2}}'
    chance = random.Random(11)
    assert cut(form, text, TOOLS, chance) == ([("weather", {"city": "x", "days": 2})], "", "", [])
    two = f"{text}; {text}\n"
    assert cut(form, two, TOOLS, chance) == (
        [("weather", {"city": "x", "days": 2})] * 2,
        "",
        "",
        [],
    )
    calls, content, _, errors = cut(form, f"Here it is: {text} More?", TOOLS, chance)
    assert (calls, content, errors) == ([], f"Here it is: {text} More?", [])
    calls, content, _, errors = cut(form, f"{text} More?", TOOLS, chance)
    assert (calls, content, len(errors)) == ([], f"{text} More?", 1)
    assert cut(form, text, None, chance)[:2] == ([], text)


@pytest.mark.parametrize(
    ("text", "begins"),
    [
        ("", None), ("{", None), ('[ {"', None), ('{"na', None), ('{"name": "', None), ('{"name": "no', None),
        ('{"name": "now"', True), ("{'tool':'now'", True), ('{"function": {', True), ('{"arguments": {', True),
        ('{"name": "nope', False), ('{"nam"', False), ('{"city', False), ("{}", False), ("[1", False), ("[no", None),
        ("[now(", True), ("now(", True), ("now ", False), ("nowhere", False), ("<func", None), ("<function=now>", True),
        ("<function=no>", False), ("Now", False),
    ],
)  # fmt: skip
def test_how_a_call_may_begin(text: str, begins: bool | None) -> None:
    assert begins_call(text, SCHEMAS) is begins


# ---- thinking


@pytest.mark.parametrize("syntax", ["json", "tags"])
@pytest.mark.parametrize("spelled", [False, True])
def test_calls_in_thinking(syntax: str, spelled: bool) -> None:
    form = form_of(syntax, spelled)
    body = WAYS[syntax]("bash", {"command": "say <think> twice"})[0]
    call = block(syntax, body)
    want = [("bash", {"command": "say <think> twice"})]

    def said(text: str, thinking: bool = True, **options: Any) -> tuple[Any, str, str, int]:
        stream = written(form, text, TOOLS, thinking=thinking, **options)
        return plain(stream.tool_calls), stream.text, stream.reasoning, len(stream.errors)

    # A draft in thinking is not a call.
    assert said(f"hm {call} no\n</think>\n\nOk.") == ([], "Ok.", f"hm {call} no", 0)
    assert said(f"hm {call}\n</think>\n\n{call}") == (want, "", f"hm {call}", 0)
    # Thinking never ended, so a call at its very end was meant.
    assert said(f"hm\n{call}") == (want, "", "hm", 0)
    assert said(f"hm\n{call}\n{call}\n") == (want * 2, "", "hm", 0)
    assert said(f"<think>\nhm\n{call.rsplit('</', 1)[0]}", thinking=False) == (want, "", "hm", 0)
    # If thinking continues after a call, the call stays in it and is reported.
    assert said(f"hm {call} or not") == ([], "", f"hm {call} or not", 1)
    assert said(f"hm {call.replace('bash', 'rm')}") == (
        [],
        "",
        f"hm {call.replace('bash', 'rm')}",
        1,
    )
    ids = form.tokenizer.encode(f"hm {call}", control=True)
    stream = stream_of(form, TOOLS, thinking=True, max_tokens=len(ids))
    stream.push(ids)
    assert (stream.finish_reason, stream.tool_calls, stream.reasoning) == (
        "length",
        [],
        f"hm {call}",
    )
    assert len(stream.errors) == 1


# ---- literals


def test_literals_are_those_of_python_and_json() -> None:
    chance = random.Random(8)
    for _ in range(400):
        item = value(chance, chance.choice(["array", "object", "string"]), [*WORDS, *MARKS])
        source = repr(item)
        assert exact(load_literal(source)) == exact(ast.literal_eval(source))
        source = json.dumps(item, ensure_ascii=chance.random() < 0.5)
        reader = Literals(source)
        assert exact(reader.value(1)) == exact(json.loads(source)) and reader.at == len(source)
    for source in ("(1)", "(1,)", "()", "0x1F", "-0b11", "1_000", "'a' \"b\"", "r'\\n'", "'\\x41\\101'", "[(1, 2), ]",
                   "{'a': (1,)}", ".5", "5.", "1e3", "'''a'b'''", '"" "x"', "'\\\n'", "True"):  # fmt: skip
        if "\\N" not in source:
            assert exact(load_literal(source)) == exact(ast.literal_eval(source)), source
    for source in (
        "b'x'",
        "f'x'",
        "1+1",
        "__import__('os')",
        "[1",
        "{1: 2}",
        "'a",
        "x",
        "",
        "1 2",
        "[" * 5000,
        "1e999",
    ):
        with pytest.raises(CallError):
            load_literal(source)


def test_only_escapes_of_json_are_read_in_json() -> None:
    """`\\1` in a pattern, which the model forgot to escape, must not become an octal number."""
    body = r'{"name": "bash", "arguments": {"command": "s/(a)/\1/ \d \a \"\u00e9\n"}}'
    assert read(body, SCHEMAS) == [("bash", {"command": 's/(a)/\\1/ \\d \\a "é\n'})]


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        ({"type": "string"}, "0123"),
        ({"$ref": "#/$defs/Code"}, "0123"),
        ({"anyOf": [{"type": "string"}, {"type": "integer"}]}, "0123"),
        ({"type": "integer"}, 123),
    ],
)
def test_leading_zeros_are_kept_where_they_may_count(schema: Any, value: Any) -> None:
    root = {"properties": {"x": schema}, "$defs": {"Code": {"type": "string"}}}
    tags = "<function=f><parameter=x>0123</parameter></function>"
    for body in ("f(x=0123)", tags):
        assert exact(read(body, {"f": root})) == exact([("f", {"x": value})])


def test_leading_zeros_are_refused_where_nobody_knows() -> None:
    for body in ("f(x=0123)", "f(x=[007])", "f(x=0_7)", '{"name": "f", "arguments": {"x": 007}}'):
        with pytest.raises(CallError):
            read(body, {"f": {}})


def test_a_number_that_nobody_can_write_is_refused() -> None:
    """Python does not write whole numbers of more than 4300 digits, not even into an error."""
    for kind in ("string", "integer"):
        offered = {"f": {"properties": {"x": {"type": kind}}}}
        with pytest.raises(CallError, match="too large"):
            tool_calls("f(x=0x" + "F" * 5000 + ")", offered)


def test_parameters_of_a_schemas_choices_are_known() -> None:
    choice = {"properties": {"b": {"type": "integer"}}}
    root = {"properties": {"a": {}}, "anyOf": [choice, {}]}
    assert violations({"a": 1, "b": 1}, root) == []
    body = "<function=f><parameter=b>3</parameter></function>"
    assert read(body, {"f": root}) == [("f", {"b": 3})]


def test_a_schema_that_is_no_json_or_refers_to_a_name() -> None:
    assert violations({"a": 1}, {"properties": {"a": {"enum": [b"x"]}}}) == [
        """a is 1, none of ["b'x'"]"""
    ]
    anchor = {"properties": {"y": {"$ref": "#Node"}}, "required": ["y"], "type": "object"}
    assert violations({"y": 1}, anchor) == []


# ---- all of it together


@pytest.mark.parametrize("syntax", FORMS)
@pytest.mark.parametrize("words", [WORDS, [*WORDS, *MARKS]], ids=["words", "marks"])
def test_written_calls_are_read_back(syntax: str, words: list[str]) -> None:
    """Random schemas and values, written in each way and cut at random: the call is read as it was, or left and
    reported."""
    chance = random.Random(9)
    form = form_of(syntax)
    marks = form.markup.calls
    assert marks is not None
    read_back = left = 0
    for _ in range(60):
        offered, call = tool_and_call(chance, chance.choice(["f", "get_weather", "a.b"]), words)
        own = "".join(text for text, _ in marks.pieces([call]))
        for text in [own, *(block(syntax, body) for body in WAYS[syntax](*call))]:
            calls, content, _, errors = cut(form, text, [offered, *TOOLS], chance)
            if errors:
                assert (calls, content) == ([], text)
                left += 1
            else:
                assert (exact(calls), content) == (exact([call]), "")
                read_back += 1
    # Tags cannot tell their own marks from marks in a value. JSON's keys can be read in two ways.
    assert left <= {"json": 0.02, "tags": 0.15, "python": 0}[syntax] * read_back


@pytest.mark.parametrize("syntax", FORMS)
def test_no_other_call_comes_of_a_broken_one(syntax: str) -> None:
    """If characters of the syntax are left out or doubled, the call is the same, or the text is reported."""
    chance = random.Random(10)
    form = form_of(syntax)
    marks = form.markup.calls
    assert marks is not None
    ends = {
        "json": ["}", "]", '"', ","],
        "tags": ["</parameter>", "</function>", "<parameter="],
        "python": [")", "]", "'", ","],
    }
    same = told = 0
    for _ in range(40):
        offered, call = tool_and_call(chance, "f", PLAIN)
        if "it's" in str(call):
            continue  # without the apostrophe it is another text for every reader
        for body in WAYS[syntax](*call):
            broken = []
            for sign in [*ends[syntax], marks.open, marks.close]:
                text = marks.open + body + marks.close
                places = [at for at in range(len(text)) if text.startswith(sign, at)]
                for at in chance.sample(places, min(2, len(places))):
                    broken += [text[:at] + text[at + len(sign) :], text[:at] + sign + text[at:]]
            for text in broken:
                calls, content, _, errors = cut(form, text, [offered, *TOOLS], chance)
                if exact(calls) == exact([call]):
                    same += 1
                else:
                    assert errors and (calls or content.strip() == text.strip()), text
                    told += 1
    assert min(same, told) > 100


@pytest.mark.parametrize("closed", [False, True])
def test_hostile_bodies_end_soon(closed: bool) -> None:
    """With quadratic work these lengths would take minutes."""
    write = "<function=write>\n<parameter=content>\n"
    for body in (
        '{"name": "bash", "arguments": {"command": "' + '" ' * 120_000,
        '{"name": "bash", "arguments": {"command": "a"' + ', "k":' * 40_000,
        '{"name": "bash", "arguments": {"command": "a"' + '"}' * 100_000,
        '{"name": "now", "arguments": {}} ' * 8000,
        '{"a":' * 50_000,
        '{"name": "bash", "arguments": {"command": ' + "1" * 200_000 + "}}",
        "bash(command='" + "' " * 120_000,
        "bash(command='" + "', a=b" * 40_000,
        "bash(command=" + "'a' " * 60_000,
        "bash(command=" + "''' " * 60_000,
        "bash(command=" + "{'a':" * 50_000,
        "bash(command='" + "\\" * 200_001,
        "now(), " * 30_000,
        "now()" + "]" * 200_000 + "x",
        write + "</parameter>\n" * 18_000,
        write + "</parameter></function>" * 11_000 + "x",
        write + "</parameter>" + " " * 200_000 + "x",
        "<function=write>" + "<parameter=content>x</parameter>" * 8000,
        "<function=" * 25_000,
        "```json\n" + "```\n" * 60_000,
        "<function=now" + " " * 200_000 + "x",
        "<function=" + " " * 200_000 + "x<",
        write[:17] + "<parameter=content" + " " * 200_000 + "x<",
        "<function=pick><parameter=tags>[" + "1," * 100_000 + "'" + "</parameter></function><function=pick>" * 30,
    ):  # fmt: skip
        begun = time.perf_counter()
        try:
            read(body[:MAX_CALL_CHARS], SCHEMAS, closed, closed)
        except CallError:
            pass
        inside_value(body)
        assert time.perf_counter() - begun < 10, body[:60]


def test_a_call_without_marks_is_not_read_again_and_again() -> None:
    """Each bracket before other text may be the end of the call."""
    splitter = Splitter(form_of("json").markup, TOOLS)
    text = '{"name": "bash", "arguments": {"command": [' + "1," * 50_000 + "1]" + "} x" * 40
    begun = time.perf_counter()
    parts = [part for at in range(0, len(text), 8) for part in splitter.feed(text[at : at + 8])]
    parts += splitter.end(stopped=True)
    assert time.perf_counter() - begun < 10
    assert "".join(str(value) for _, value in parts) == text
