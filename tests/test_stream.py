"""Answers as text: stop strings however tokens cut them, stop ids, limits; never half a character,
nothing held without need."""

from __future__ import annotations

import asyncio
import functools
import random

import pytest

from py_engine.errors import InputError
from py_engine.generate.stream import StopStrings, TextStream
from py_engine.inputs.tokenizer import Tokenizer
from tests.corpus import SCRIPTS
from tests.packaged_tokenizers import tokenizer_json


@functools.cache
def whisper() -> Tokenizer:
    return asyncio.run(Tokenizer.load(tokenizer_json("whisper").read_bytes()))


def first_stop(text: str, stops: list[str]) -> tuple[str, str | None]:
    """What is shown of a text, found the plain way: character by character."""
    for end in range(len(text) + 1):
        ending = [stop for stop in stops if text[:end].endswith(stop)]
        if ending:
            longest = max(ending, key=len)
            return text[: end - len(longest)], longest
    return text, None


def test_stop_strings_do_not_depend_on_how_the_text_is_cut() -> None:
    chance = random.Random(1)
    stopped = 0
    for _ in range(5000):
        text = "".join(chance.choices("abc", k=chance.randint(0, 14)))
        stops = [
            "".join(chance.choices("abc", k=chance.randint(1, 4)))
            for _ in range(chance.randint(0, 3))
        ]
        finder, shown, found, at = StopStrings(stops), "", None, 0
        while at < len(text) and found is None:
            step = chance.randint(1, 4)
            more, found = finder.push(text[at : at + step])
            shown, at = shown + more, at + step
        if found is None:
            shown += finder.flush()
        assert (shown, found) == first_stop(text, stops), (text, stops)
        stopped += found is not None
    assert stopped > 1000


def test_only_what_could_become_a_stop_string_is_held_back() -> None:
    finder = StopStrings(["\n\n", "END"])
    assert finder.push("one\n") == ("one", None)
    assert finder.push("two E") == ("\ntwo ", None)
    assert finder.push("N") == ("", None)
    assert finder.push("OUGH") == ("ENOUGH", None)
    assert finder.push("E") == ("", None)
    assert finder.flush() == "E"
    assert finder.flush() == ""


def test_a_stop_string_across_tokens_ends_the_answer_at_its_token() -> None:
    tok = whisper()
    ids = tok.encode("The answer is 42. STOP and more")
    stream = TextStream(tok.decoder(), stop=["42. STO"])
    deltas = [stream.push([token_id]) for token_id in ids]
    assert stream.text == "The answer is " == "".join(delta.text for delta in deltas)
    assert (stream.finish_reason, stream.stop_string) == ("stop", "42. STO")
    consumed = stream.tokens
    assert "42. STO" in tok.decode(ids[:consumed]) and "42. STO" not in tok.decode(
        ids[: consumed - 1]
    )
    assert sum(delta.tokens for delta in deltas) == consumed
    assert [d.finish_reason for d in deltas] == [None] * (consumed - 1) + ["stop"] * (
        len(ids) - consumed + 1
    )
    assert stream.push(ids) == stream.finish("abort") and stream.push(ids).tokens == 0


def test_batches_and_single_ids_give_the_same() -> None:
    tok = whisper()
    chance = random.Random(2)
    for text in SCRIPTS.values():
        ids = tok.encode(text)
        stops = [text[len(text) // 2 :][:3]] if len(text) > 6 else []
        ends = set()
        for _ in range(4):
            stream, at = TextStream(tok.decoder(), stops, max_tokens=40), 0
            while at < len(ids):
                step = chance.randint(1, 9)
                stream.push(ids[at : at + step])
                at += step
            stream.finish("abort")
            ends.add((stream.text, stream.tokens, stream.finish_reason, stream.stop_string))
        assert len(ends) == 1


def test_stop_ids_end_it_without_their_text() -> None:
    tok = whisper()
    stop = tok.control["<|endoftext|>"]
    ids = tok.encode("Hello there")
    stream = TextStream(tok.decoder(skip_special_tokens=False), stop=["there!"], stop_ids=[stop])
    delta = stream.push([*ids, stop, *ids])
    assert (delta.text, delta.tokens, delta.finish_reason) == ("Hello there", len(ids) + 1, "stop")
    assert stream.stop_string is None


def test_the_token_limit_shows_what_was_held_and_no_half_character() -> None:
    tok = whisper()
    ids = tok.encode("ok 𒀀")  # a character of several tokens
    stream = TextStream(tok.decoder(), stop=["k never"], max_tokens=len(ids) - 1)
    assert stream.push(ids).finish_reason == "length"
    assert stream.text == "ok " and stream.tokens == len(ids) - 1
    whole = TextStream(tok.decoder(), max_tokens=len(ids))
    assert whole.push(ids).text == "ok 𒀀"


def test_an_abort_shows_what_was_held() -> None:
    tok = whisper()
    stream = TextStream(tok.decoder(), stop=["Hello you"])
    assert stream.push(tok.encode("Hello")).text == ""
    last = stream.finish("abort")
    assert (last.text, last.tokens, last.finish_reason) == ("Hello", 0, "abort")
    assert stream.finish("stop").text == "" and stream.finish_reason == "abort"


def test_a_stop_string_completed_by_what_was_held_at_the_end() -> None:
    """Byte pieces wait for their run's end; the stop string inside them is found then."""
    tok = asyncio.run(Tokenizer.load(tokenizer_json("gemma").read_bytes()))
    ids = tok.encode("a 𐎀𐎁𐎂")
    assert tok.piece(ids[-1]) == ("<0x82>", False)
    stream = TextStream(tok.decoder(), stop=["𐎁"], max_tokens=len(ids))
    stream.push(ids)
    assert (stream.text, stream.finish_reason, stream.stop_string) == ("a 𐎀", "stop", "𐎁")
    tok.close()


@pytest.mark.parametrize("stop", [[""], ["a", ""], ["x" * 5000], ["\ud800"], [3], ["a"] * 65])
def test_stop_strings_are_checked(stop: list[str]) -> None:
    with pytest.raises(InputError, match="stop"):
        StopStrings(stop)


def test_one_stop_string_may_come_alone() -> None:
    assert StopStrings("ab").push("xaby") == ("x", "ab")
