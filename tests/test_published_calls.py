"""Answers as the families write them, with the marks of their published templates and tokenizers: thinking, calls and
answer are told apart, whether the text comes whole or character by character.

Seed-OSS, Command R7B, Mistral, Ministral, Granite, Llama, EXAONE and Llama Nemotron have their forms in their published
templates; OLMo 3, Hunyuan (its A13B) and Phi-4-mini in vLLM's parsers and their tests; Nemotron-Mini in Ollama's
template. The forms of GLM-4 and those with <answer> and <response> follow the model cards; they were not compared with
the published files.
"""

from __future__ import annotations

import functools
import json
import re
from dataclasses import dataclass
from typing import Any

import pytest

from py_engine.generate.markup import Splitter
from tests.chat_formats import ChatFormat, make

SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
    "required": ["city"],
}
TOOLS = [
    {"type": "function", "function": {"name": name, "parameters": SCHEMA}}
    for name in ("weather", "look_up")
]
BERN, THREE = {"city": "Bern"}, {"city": "Ulm", "days": 3}


@dataclass(frozen=True)
class Published:
    """`shown`: the marks that the template contains; `special`, `ordinary`: added tokens; `text`: the answer."""

    shown: str
    text: str
    calls: tuple[tuple[str, dict[str, Any]], ...] = ()
    reasoning: str = ""
    content: str = ""
    special: tuple[str, ...] = ()
    ordinary: tuple[str, ...] = ()


ONE = (("weather", BERN),)
TWO = (("weather", BERN), ("look_up", THREE))
COHERE = (
    *("<|START_THINKING|>", "<|END_THINKING|>", "<|START_ACTION|>", "<|END_ACTION|>"),
    *("<|START_RESPONSE|>", "<|END_RESPONSE|>"),
)
PUBLISHED = {
    "seed-oss": Published(
        "<seed:think></seed:think><seed:tool_call><function=f></seed:tool_call>",
        "<seed:think>\nhm\n</seed:think>\n\n<seed:tool_call>\n<function=weather>\n<parameter=city>Bern</parameter>\n"
        "</function>\n</seed:tool_call>\n<seed:tool_call>\n<function=look_up>\n<parameter=city>Ulm</parameter>\n"
        "<parameter=days>3</parameter>\n</function>\n</seed:tool_call>",
        TWO, "hm",
        ordinary=("<seed:think>", "</seed:think>", "<seed:tool_call>", "</seed:tool_call>"),
    ),
    "command-r7b calls": Published(
        "".join(COHERE),
        '<|START_THINKING|>hm<|END_THINKING|><|START_ACTION|>[\n    {"tool_call_id": "0", "tool_name": "weather", '
        '"parameters": {"city": "Bern"}},\n    {"tool_call_id": "1", "tool_name": "look_up", "parameters": '
        '{"city": "Ulm", "days": 3}}\n]<|END_ACTION|>',
        TWO, "hm", ordinary=COHERE,
    ),
    "command-r7b answers": Published(
        "".join(COHERE), "<|START_THINKING|>hm<|END_THINKING|><|START_RESPONSE|>It rains.<|END_RESPONSE|>",
        (), "hm", "It rains.", ordinary=COHERE,
    ),
    "mistral-nemo": Published(
        "[TOOL_CALLS][",
        '[TOOL_CALLS][{"name": "weather", "arguments": {"city": "Bern"}, "id": "a1B2c3D4e"}, '
        '{"name": "look_up", "arguments": {"city": "Ulm", "days": 3}, "id": "a1B2c3D4f"}]',
        TWO, special=("[TOOL_CALLS]",),
    ),
    "mistral-small-3.2": Published(
        "[TOOL_CALLS][CALL_ID][ARGS]",
        '[TOOL_CALLS]weather[CALL_ID]a1B2c3D4e[ARGS]{"city": "Bern"}'
        '[TOOL_CALLS]look_up[CALL_ID]a1B2c3D4f[ARGS]{"city": "Ulm", "days": 3}',
        TWO, special=("[TOOL_CALLS]", "[CALL_ID]", "[ARGS]"),
    ),
    "ministral-3-reasoning": Published(
        "[THINK][/THINK][TOOL_CALLS][ARGS]",
        '[THINK]hm[/THINK]I look.[TOOL_CALLS]weather[ARGS]{"city": "Bern"}[TOOL_CALLS]look_up[ARGS]{"city": "Ulm", '
        '"days": 3}',
        TWO, "hm", "I look.", special=("[TOOL_CALLS]", "[ARGS]", "[THINK]", "[/THINK]"),
    ),
    "granite-3.3": Published(
        "<|tool_call|>", '<|tool_call|>[{"name": "weather", "arguments": {"city": "Bern"}}]',
        ONE, special=("<|tool_call|>",),
    ),
    "granite-3.3 thinks": Published(
        "<think></think><response></response>", "<think>hm</think>\n<response>It rains.</response>",
        (), "hm", "It rains.",
    ),
    "granite-4": Published(
        "<tool_call></tool_call>", '<tool_call>\n{"name": "weather", "arguments": {"city": "Bern"}}\n</tool_call>',
        # Older models use the last one.
        ONE, ordinary=("<tool_call>", "</tool_call>", "<|tool_call|>"),
    ),
    "phi-4-mini": Published(
        "<|tool|>", '<|tool_call|>[{"name": "weather", "arguments": {"city": "Bern"}}]<|/tool_call|>',
        ONE, ordinary=("<|tool_call|>", "<|/tool_call|>"),
    ),
    "phi-4-mini without marks": Published(
        "<|tool|>", 'functools[{"name": "weather", "arguments": {"city": "Bern"}}]', ONE
    ),
    "llama-3.2": Published("ipython", '{"name": "weather", "parameters": {"city": "Bern"}}', ONE),
    "llama-3.1 tags": Published("ipython", '<function=weather>{"city": "Bern"}</function>', ONE),
    "exaone-4": Published(
        "<think></think><tool_call></tool_call>",
        '<think>\nhm\n</think>\n\n<tool_call>{"name": "weather", "arguments": {"city": "Bern"}}</tool_call>',
        ONE, "hm", ordinary=("<think>", "</think>", "<tool_call>", "</tool_call>"),
    ),
    "llama-nemotron": Published(
        "</think><TOOLCALL>[]</TOOLCALL>",
        '<think>\nhm\n</think>\n\n<TOOLCALL>[{"name": "weather", "arguments": {"city": "Bern"}}]</TOOLCALL>',
        ONE, "hm",
    ),
    "nemotron-mini": Published(
        "<toolcall> </toolcall>", '<toolcall> {"name": "weather", "arguments": {"city": "Bern"}} </toolcall>', ONE
    ),
    "olmo-3": Published(
        "<functions></functions><function_calls></function_calls>",
        '<function_calls>weather(city="Bern")\nlook_up(city="Ulm", days=3)</function_calls>', TWO,
    ),
    "hunyuan calls": Published(
        "</think><tool_calls></tool_calls><answer></answer>",
        '<think>\nhm\n</think>\n<tool_calls>[{"name": "weather", "arguments": {"city": "Bern"}}]</tool_calls>',
        ONE, "hm",
    ),
    "hunyuan answers": Published(
        "</think><answer></answer>", "<think>\nhm\n</think>\n<answer>\nIt rains.\n</answer>", (), "hm", "It rains."
    ),
    "glm-4": Published("<|observation|>", '\nweather\n{"city": "Bern"}', ONE),
}  # fmt: skip


@functools.cache
def form_of(name: str) -> ChatFormat:
    found = PUBLISHED[name]
    template = f"{{# {found.shown} #}}{{{{- messages[0].content -}}}}"
    return make(
        template, ["<s>", "</s>", *found.special], list(found.ordinary), {"eos_token": "</s>"}
    )


def cut(name: str, text: str, each: bool, tools: Any = TOOLS) -> tuple[Any, str, str, list[str]]:
    """(calls, reasoning, content, errors). With `each` the text comes character by character, except added tokens."""
    form = form_of(name)
    splitter = Splitter(form.markup, tools)
    added = {token.content: token.id for token in form.tokenizer.added.values()}
    parts = []
    for piece in re.split(f"({'|'.join(map(re.escape, added))})", text):
        if piece in added:
            parts += splitter.feed(piece, added[piece])
            continue
        for letters in piece if each else [piece]:
            parts += splitter.feed(letters)
    parts += splitter.end(stopped=True)
    calls = [
        (part[1]["function"]["name"], json.loads(part[1]["function"]["arguments"]))
        for part in parts
        if part[0] == "call"
    ]
    said = {kind: "".join(p[1] for p in parts if p[0] == kind) for kind in ("reasoning", "content")}
    return calls, said["reasoning"], said["content"], splitter.errors


@pytest.mark.parametrize("each", [False, True])
@pytest.mark.parametrize("name", PUBLISHED)
def test_the_parts_of_an_answer(name: str, each: bool) -> None:
    found = PUBLISHED[name]
    calls, reasoning, content, errors = cut(name, found.text, each)
    assert (calls, errors) == ([*found.calls], [])
    assert (reasoning, content.strip()) == (found.reasoning, found.content)


@pytest.mark.parametrize("name", [n for n, p in PUBLISHED.items() if p.calls])
def test_a_function_that_was_not_offered_stays_text(name: str) -> None:
    """Every letter stays, in the place of the call. A call that breaks off stays too."""
    text = PUBLISHED[name].text.replace("weather", "wetter").replace("look_up", "wetter")
    calls, _, content, _ = cut(name, text, True)
    assert calls == [] and "wetter" in content
    broken = PUBLISHED[name].text.partition("Bern")[0] + "Bern"
    calls, _, content, _ = cut(name, broken, True)
    assert calls == [] and "weather" in content


@pytest.mark.parametrize(
    "name", [n for n, p in PUBLISHED.items() if p.calls and form_of(n).markup.calls]
)
def test_calls_are_written_as_they_are_read(name: str) -> None:
    """Where a template does not know tool_calls, calls are written into the content like this."""
    write = form_of(name).markup.write_calls
    assert write is not None
    text = "".join(piece for piece, _ in write([("weather", BERN), ("look_up", THREE)]))
    assert cut(name, text, True)[0] == [("weather", BERN), ("look_up", THREE)]


def test_thinking_that_a_template_knows_by_no_key_goes_back_between_its_marks() -> None:
    """This is for a turn whose call was just answered. Thinking is written as Ministral writes its own blocks."""
    template = (
        "[THINK][/THINK]{% for m in messages %}{{ m.content }}{% for c in m.tool_calls or [] %}"
        "[TOOL_CALLS]{{ c.function.name }}[ARGS]{{ c.function.arguments | tojson }}{% endfor %}{% endfor %}"
    )
    form = make(template, ["[TOOL_CALLS]", "[ARGS]", "[THINK]", "[/THINK]"], [], {})
    call = {"type": "function", "id": "a1", "function": {"name": "weather", "arguments": BERN}}
    talk: list[dict[str, Any]] = [
        {"role": "user", "content": "Rain?"},
        {"role": "assistant", "content": "", "reasoning": "hm", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "a1", "content": "yes"},
    ]
    text = form.template.render(talk)
    assert '[THINK]hm[/THINK][TOOL_CALLS]weather[ARGS]{"city": "Bern"}yes' in text


@pytest.mark.parametrize(
    ("template", "on", "off"),
    [
        ("{{ 'think' if thinking else '' }}", "think", ""),  # Granite 3.2, 3.3
        ("{{ 'answer' if thinking_budget is defined and thinking_budget == 0 else '' }}", "", "answer"),  # Seed-OSS
        ("{{ 'answer' if enable_thinking is false else '' }}{{ thinking }}", "", "answer"),
    ],
)  # fmt: skip
def test_the_switch_goes_by_the_name_that_the_template_has(
    template: str, on: str, off: str
) -> None:
    form = make("{{ messages[0].content }}|" + template, ["</s>"], [], {})
    talk = [{"role": "user", "content": "Rain?"}]
    assert form.template.thinking_switch
    assert form.template.render(talk, enable_thinking=True) == f"Rain?|{on}"
    assert form.template.render(talk, enable_thinking=False) == f"Rain?|{off}"


def test_thinking_goes_back_as_the_plan_of_command_a() -> None:
    template = (
        "{% for m in messages %}{% if m.tool_calls %}<|START_THINKING|>{{ m.tool_plan }}<|END_THINKING|>"
        "{{ m.tool_calls[0].function.name }}{{ m.tool_calls[0].function.arguments | tojson }}"
        "{% else %}{{ m.content }}{% endif %}{% endfor %}"
    )
    form = make(template, [], [*COHERE], {})
    call = {"type": "function", "id": "a1", "function": {"name": "weather", "arguments": BERN}}
    talk: list[dict[str, Any]] = [
        {"role": "user", "content": "Rain?"},
        {"role": "assistant", "content": None, "reasoning": "hm", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "a1", "content": "yes"},
    ]
    wanted = 'Rain?<|START_THINKING|>hm<|END_THINKING|>weather{"city": "Bern"}yes'
    assert form.template.render(talk) == wanted
