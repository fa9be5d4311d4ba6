"""Conversations of every shape with templates of every style: the text is the one of transformers, or an error says why
not, and no given text is missing.
"""

from __future__ import annotations

import functools
import json
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from py_engine.errors import InputError
from tests.chat_formats import ChatFormat, make
from tests.chat_shapes import CALLS, SWITCHES, cases, missing, readings
from tests.chat_styles import STYLES

GOLDEN = json.loads((Path(__file__).parent / "goldens" / "chats.json").read_text())


@functools.cache
def form_of(style: str) -> ChatFormat:
    found = STYLES[style]
    return make(found.template, found.special, found.ordinary, found.names)


def ours(form: ChatFormat, talk: Any, tools: Any, switch: str) -> str | InputError:
    try:
        return form.template.render(talk, tools, **SWITCHES[switch])
    except InputError as error:
        return error


def references(style: str, case: str, switch: str, calls: str) -> dict[str, str | None]:
    """The text that transformers gives for each reading; None where it raises."""
    found: dict[str, str | None] = {}
    for reading, places in GOLDEN["chats"][style][case].items():
        place = places[switch]
        text = None if place is None else GOLDEN["texts"][place]
        found[reading] = text if text is None else text.replace(CALLS, calls)
    return found


def calls_as_written(form: ChatFormat, talk: Any) -> str:
    for message in readings(talk).get("plain", talk):
        calls = [
            (c["function"]["name"], c["function"]["arguments"])
            for c in message.get("tool_calls", ())
        ]
        if calls and form.markup.write_calls:
            return "".join(text for text, _ in form.markup.write_calls(calls))
    return ""


@pytest.mark.parametrize("style", STYLES)
def test_conversations_are_laid_out_as_by_transformers_or_refused(style: str) -> None:
    form = form_of(style)
    seen: Counter[str] = Counter()
    for case, (talk, tools) in cases().items():
        for switch in SWITCHES:
            where = (style, case, switch)
            mine = ours(form, talk, tools, switch)
            judged = references(style, case, switch, calls_as_written(form, talk))
            given = judged["given"]
            if isinstance(mine, InputError):
                lost = given is None or missing(talk, given) or (tools and "look_up" not in given)
                assert lost, (where, mine)
                assert "messages[" in str(mine) or "chat template" in str(mine), where
                seen["refused"] += 1
                continue
            lost = missing(talk, mine)
            assert lost == [] or (style == "deepseek-r1" and lost == ["I must look."]), where
            reading = next((name for name, text in judged.items() if text == mine), None)
            assert reading is not None, (where, mine, given)
            if (
                reading != "given" and given is not None
            ):  # docs/conversations.md says how these are read
                told = missing(talk, given) or case in READ_OTHERWISE
                assert told, (where, reading, given)
            seen[reading] += 1
    assert seen["given"] >= (0 if style == "parts only" else 30), seen


# Here transformers' text holds every text, but in a form that no model was trained on: an unknown role, a list of
# parts.
READ_OTHERWISE = {
    "developer",
    "system and developer",
    "function role",
    "user parts",
    "system parts",
    "answer parts",
    "result parts",
    "call as text",
}


@pytest.mark.parametrize("style", STYLES)
def test_the_end_of_a_turn_is_seen_in_what_the_template_writes(style: str) -> None:
    form = form_of(style)
    ends = [form.tokenizer.added[i].content for i in form.template.turn_ends]
    assert tuple(ends) == STYLES[style].ends


@pytest.mark.parametrize("style", STYLES)
def test_what_people_type_holds_no_added_token(style: str) -> None:
    form = form_of(style)
    typed = " ".join([*STYLES[style].special, *STYLES[style].ordinary])
    talk = [{"role": "user", "content": "x"}]
    bare = [text for text, control in form.template.pieces(talk) if control]
    for text in (typed, typed.replace(" ", ""), f"x{typed}\n\n{typed}"):
        said = [{"role": "user", "content": text}]
        pieces = form.template.pieces(said)
        assert [piece for piece, control in pieces if control] == bare
        ids = form.tokenizer.encode_pieces(pieces)
        assert sum(i in form.tokenizer.added for i in ids) == len(bare)
        assert text.strip() in form.template.render(said)


@pytest.mark.parametrize("style", STYLES)
def test_the_thinking_switch_is_seen(style: str) -> None:
    switches = {"qwen3", "qwen3.5", "smollm3", "glm4.5", "granite3.3"}
    assert form_of(style).template.thinking_switch == (style in switches)


def test_asking_a_template_takes_no_time_to_speak_of() -> None:
    for style in STYLES:
        found = STYLES[style]
        form = make(found.template, found.special, found.ordinary, found.names)
        form.template._compile("default")
        talk, _ = cases()["two calls"]
        start = time.perf_counter()
        ours(form, [{"role": "developer", "content": "x"}, *talk], None, "unset")
        assert time.perf_counter() - start < 0.2  # 5 ms on a quiet machine
