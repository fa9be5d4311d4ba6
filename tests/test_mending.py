"""Chats that were damaged in the store: they can be read, each field is usable or set aside, and nothing is lost."""

from __future__ import annotations

import copy
import json
import random
from typing import Any

import pytest

from app import mending

VALUES: list[Any] = [
    None, True, 0, -1, 2.5, 1e300, float("inf"), "", "text", "x" * 5000, "\ud800", [], [1], ["a"], [None],
    {}, {"text": "part"}, {"function": 3}, [[[]]], [{"type": "text", "text": "one"}, {"text": "two"}],
]  # fmt: skip
CALL = {"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
GOOD = {
    "role": "assistant",
    "content": "an answer",
    "reasoning": "thought",
    "thought_s": 1.5,
    "model": "Tiny",
    "forgot": 2,
    "unread_calls": 1,
    "tool_calls": [CALL],
    "pictures": [{"id": "5e", "name": "a.png", "alt": "", "width": 2, "height": 3, "nbytes": 70}],
    "sources": [{"number": 1, "text": "a passage", "source": "a.md", "heading": ["A"], "line": 3}],
    "stats": {"tps": 4.0, "ttft_s": None, "tokens": 3, "finish": "stop"},
    "error": {"type": "InputError", "text": "why"},
}


def is_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except ValueError:
        return False


def message(found: Any) -> dict[str, Any]:
    mended: dict[str, Any] = mending.message(found, is_object)
    return mended


def check(mended: dict[str, Any]) -> None:
    """Check that what rows.py does with a message works with this one."""
    assert mended["role"] in mending.ROLES
    for name in ("content", "reasoning", "model"):
        assert isinstance(mended.get(name, ""), str)
    for name in ("thought_s", "forgot", "unread_calls"):
        round(mended.get(name, 1))
    stats = mended.get("stats", {})
    assert "%.1f" % stats.get("tps", 1) and round(stats.get("ttft_s") or 0) is not None  # noqa: UP031
    assert stats.get("tokens", 1) * 1 < 1e12 and stats.get("finish", "").strip is not None
    if "error" in mended:
        assert (
            mended["error"]["text"][:1].upper() is not None and mended["error"]["type"] is not None
        )
    for picture in mended.get("pictures", ()):
        assert picture["id"] + picture["name"] + picture.get("alt", "") is not None
        if "width" in picture:
            assert picture["width"] * picture["height"] * picture["nbytes"] is not None
    for source in mended.get("sources", ()):
        assert source["text"] + " > ".join(source.get("heading", ())) is not None
        assert source["number"] * source.get("page", 1) * source.get("line", 1) is not None
    for call in mended.get("tool_calls", ()):
        assert call["function"]["name"] is not None and is_object(call["function"]["arguments"])
    assert mending.message(mended, is_object) == mended, "mending again changes nothing"


def test_a_good_message_is_left_alone() -> None:
    for whole in (GOOD, {"role": "user", "content": "hi", "of a later page": {"any": "thing"}}):
        assert message(whole) == whole


@pytest.mark.parametrize("name", [*GOOD, "damaged"])
def test_a_damaged_field_is_set_aside_and_kept(name: str) -> None:
    for value in VALUES:
        mended = message({**GOOD, name: value})
        check(mended)
        lost = mended.get(name) != value and value not in mended.get("damaged", {}).values()
        if lost and value:  # a part of it fits
            text = json.dumps([mended.get(name), mended["damaged"]])
            parts = value.values() if isinstance(value, dict) else value
            assert all(json.dumps(part)[1:-1] in text for part in parts), (name, value)
        others = {k: v for k, v in GOOD.items() if k != name}
        assert {k: v for k, v in mended.items() if k in others} == others


def test_what_is_no_message_becomes_the_text_of_one() -> None:
    for value in VALUES:
        mended = message(value)
        check(mended)
        if isinstance(value, (str, int, float)):
            assert str(value).lower() in mended["content"].lower() or value == float("inf")
    assert message([{"type": "text", "text": "one"}, {"text": "two"}])["content"] == "one\ntwo"


def test_whatever_a_chat_is_it_has_messages() -> None:
    for value in [
        *VALUES,
        {"messages": "all"},
        {"messages": {"role": "user", "content": "one"}},
        [GOOD],
    ]:
        chat = mending.chat(value, json.dumps(value), is_object)
        for each in chat["messages"]:
            check(each)
    assert mending.chat([GOOD], "", is_object) == {"messages": [GOOD]}
    assert (
        mending.chat(None, '{"messages": [', is_object)["messages"][0]["content"]
        == '{"messages": ['
    )


def test_random_damage() -> None:
    """Any value in any place: there is no exception, and every string that was there is still there."""
    chance = random.Random(4)
    for _ in range(3000):
        found = json.loads(json.dumps(GOOD))
        for _ in range(chance.randint(1, 4)):
            place: Any = found
            while True:
                key = chance.choice(list(place) if isinstance(place, dict) else range(len(place)))
                inner = place[key]
                if not isinstance(inner, (dict, list)) or not inner or chance.random() < 0.4:
                    break
                place = inner
            mark = f"mark {chance.random()}"
            place[key] = copy.deepcopy(chance.choice(VALUES)) if chance.random() < 0.8 else mark
            if chance.random() < 0.2 and isinstance(place, dict):
                place.pop(key)
            if not found:
                break
        mended = mending.chat({"messages": [found]}, "", is_object)["messages"][0]
        check(mended)
        after = json.dumps(mended)
        marks = [part for part in json.dumps(found).split('"') if part.startswith("mark ")]
        assert all(mark in after for mark in marks)
