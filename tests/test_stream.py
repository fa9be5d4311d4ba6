"""Answers as text: stop strings however tokens cut them, stop ids, limits, and thinking kept apart. Half a character
or half a mark is never shown, and nothing is held back without need.
"""

from __future__ import annotations

import asyncio
import functools
import random
from typing import Any

import pytest

from py_engine.errors import InputError
from py_engine.generate.answer import Answer, Generation
from py_engine.generate.markup import Splitter
from py_engine.generate.stream import Delta, StopStrings, TextStream
from py_engine.inputs.tokenizer import Tokenizer
from tests.chat_formats import ChatFormat, chat_format, make
from tests.corpus import SCRIPTS
from tests.packaged_tokenizers import tokenizer_json


@functools.cache
def whisper() -> Tokenizer:
    return asyncio.run(Tokenizer.load(tokenizer_json("whisper").read_bytes()))


def first_stop(text: str, stops: list[str]) -> tuple[str, str | None]:
    """The text that is shown, found in the simplest way: character by character."""
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
    """Byte pieces wait for the end of their run; only then the stop string in them is found."""
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


# ---- stop strings with control tokens


@pytest.mark.parametrize("reason", ["stop", None])
@pytest.mark.parametrize(
    ("text", "stop", "shown", "found"),
    [
        ("Hi there<|im_end|>more", "<|im_end|>", "Hi there", "<|im_end|>"),
        ("Hi there<|im_end|>more", "there<|im_end|>", "Hi ", "there<|im_end|>"),
        ("a<|im_start|>b<|im_end|>c", "b<|im_end|>c", "a", "b<|im_end|>c"),
        ("a<|endoftext|><|im_end|>", "<|endoftext|><|im_end|>", "a", "<|endoftext|><|im_end|>"),
        ("a<|endoftext|>b", "im_end|>", "ab", None),
        ("a<|im_start|>b", "a<|im_end|>", "ab", None),
        ("a <tool_call>", "<tool_call>", "a ", "<tool_call>"),
        ("a <tool_call>", "a <tool", "", "a <tool"),
    ],
)
def test_stop_strings_match_control_tokens(
    text: str, stop: str, shown: str, found: str | None, reason: str | None
) -> None:
    tok = chat_format("qwen3").tokenizer
    ids = tok.encode(text, control=True)
    stop_ids = tok.stop_ids if reason and stop != "b<|im_end|>c" else ()
    for step in (1, 3, len(ids)):
        stream = TextStream(tok.decoder(), [stop], stop_ids, control=tok.control)
        deltas = [stream.push(ids[at : at + step]) for at in range(0, len(ids), step)]
        deltas.append(stream.finish("abort"))
        assert (stream.text, stream.stop_string) == (shown, found)
        assert "".join(delta.text for delta in deltas) == shown
        if found:
            assert stream.finish_reason == "stop"
            assert tok.decode(ids[: stream.kept_tokens]) == shown
            last = tok.decode(ids[: stream.tokens], skip_special_tokens=False)
            assert found in last and last.startswith(shown)


def test_spelled_out_control_tokens_match_a_stop_string_too() -> None:
    tok = chat_format("qwen3").tokenizer
    stream = TextStream(tok.decoder(), ["<|im_end|>"], control=tok.control)
    stream.push(tok.encode("say <|im_end|> again"))
    assert (stream.text, stream.stop_string) == ("say ", "<|im_end|>")


def test_a_call_before_a_stop_string_that_is_the_turns_end_counts_as_a_call() -> None:
    form = chat_format("qwen3")
    tok = form.tokenizer
    tools = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]
    splitter = Splitter(form.markup, tools)
    stream = TextStream(
        tok.decoder(keep=splitter.ids), ["<|im_end|>"], tok.stop_ids, None, splitter, tok.control
    )
    call = '<tool_call>\n{"name": "f", "arguments": {}}\n</tool_call><|im_end|>'
    stream.push(tok.encode(call, control=True))
    assert (len(stream.tool_calls), stream.text) == (1, "")
    assert (stream.finish_reason, stream.stop_string) == ("tool_calls", "<|im_end|>")


# ---- thinking


def thought(
    form: ChatFormat, text: str, *, opened: bool = False, end: bool = True, **options: Any
) -> tuple[TextStream, list[Delta]]:
    """An answer given token by token. Its marks are tokens where the model has them."""
    splitter = Splitter(form.markup, thinking=opened)
    tok = form.tokenizer
    decoder = tok.decoder(keep=splitter.ids)
    stream = TextStream(decoder, stop_ids=tok.stop_ids, splitter=splitter, **options)
    ids = [*tok.encode(text, control=True), *(tok.stop_ids if end else ())]
    return stream, [stream.push([i]) for i in ids]


def spelled() -> ChatFormat:
    """A model whose template knows the marks, but whose tokenizer has no tokens for them."""
    return make("{{ '</think>' }}", ["<|endoftext|>", "<|im_start|>", "<|im_end|>"], [])


@pytest.mark.parametrize("form", [chat_format("qwen3"), spelled()], ids=["tokens", "text"])
@pytest.mark.parametrize(
    ("text", "opened", "reasoning", "answer"),
    [
        ("<think>\nA  b\n\nc\n</think>\n\nYes. \n", False, "A  b\n\nc", "Yes. \n"),
        ("A b\n</think>\n\nYes.", True, "A b", "Yes."),
        ("<think>\nA b</think>Yes.", True, "A b", "Yes."),
        ("\n <think>x</think>y", False, "x", "y"),
        ("<think>\n\n</think>\n\nYes.", False, "", "Yes."),
        ("<think>a</think>\n<think>b</think>c", False, "ab", "c"),
        ("a <th b </think> <think>x</think> `<think>`", True, "a <th bx", " `<think>`"),
        (
            "<think>x</think>\n\n    def f():\n        pass",
            False,
            "x",
            "    def f():\n        pass",
        ),
        ("x\n</think>\n\n\tgo", True, "x", "\tgo"),
        ("x</think>\r\n\n  \n y", True, "x", "  \n y"),
        ("Say <think> and </think>.", False, "", "Say <think> and </think>."),
        ("</think>x", False, "", "</think>x"),
        ("  \nNo.", False, "", "  \nNo."),
        ("\n", False, "", "\n"),
        ("<think>🐀</think>🐀", False, "🐀", "🐀"),
    ],
)
def test_thinking_is_kept_apart(
    form: ChatFormat, text: str, opened: bool, reasoning: str, answer: str
) -> None:
    stream, deltas = thought(form, text, opened=opened)
    assert (stream.reasoning, stream.text) == (reasoning, answer)
    assert "".join(d.reasoning for d in deltas) == reasoning
    assert "".join(d.text for d in deltas) == answer
    begun = next((i for i, d in enumerate(deltas) if d.text), len(deltas))
    assert not any(d.reasoning for d in deltas[begun:])
    assert stream.finish_reason == "stop"


def test_a_model_without_thinking_never_thinks_by_accident() -> None:
    text = "<think>\nno\n</think>\n```\n<think>\n```"
    for name in ("gemma", "lfm2"):
        stream, _ = thought(chat_format(name), text)
        assert (stream.text, stream.reasoning, stream.reasoning_tokens) == (text, "", 0)


def test_unfinished_thinking_at_the_limit() -> None:
    stream, _ = thought(
        chat_format("qwen3.5"), "still thinking", opened=True, max_tokens=9, end=False
    )
    assert (stream.reasoning, stream.text) == ("still thi", "")
    assert (stream.finish_reason, stream.reasoning_tokens) == ("length", 9)


def test_tokens_of_thinking_are_counted_with_their_marks() -> None:
    assert thought(chat_format("qwen3"), "<think>abc</think>de")[0].reasoning_tokens == 5
    assert thought(chat_format("qwen3"), "abc</think>de", opened=True)[0].reasoning_tokens == 4
    assert thought(chat_format("qwen3"), "abc")[0].reasoning_tokens == 0


def test_stop_strings_look_at_the_answer_only() -> None:
    form = chat_format("qwen3")
    stream, _ = thought(form, "<think>a STOP b</think>\none STOP two", stop=["STOP"])
    assert (stream.reasoning, stream.text) == ("a STOP b", "one ")
    assert (stream.finish_reason, stream.stop_string) == ("stop", "STOP")
    ids = form.tokenizer.encode("<think>a STOP b</think>\none ", control=True)
    assert stream.kept_tokens == len(ids) and stream.tokens == len(ids) + 4
    across, _ = thought(form, "<think>a ST</think>OP.", stop=["STOP"])
    assert (across.reasoning, across.text, across.stop_string) == ("a ST", "OP.", None)


@pytest.mark.parametrize(
    ("name", "switch", "opened"),
    [
        ("qwen3", None, False),
        ("qwen3", False, False),
        ("qwen3.5", None, False),
        ("qwen3.5", False, False),
        ("qwen3.5", True, True),
        ("lfm2.5", True, False),
        ("gemma", True, False),
    ],
)
def test_the_prompt_may_have_opened_the_thinking(
    name: str, switch: bool | None, opened: bool
) -> None:
    form = chat_format(name)
    for text in ("hi", "<think>", "<think>\n"):
        messages = [{"role": "user", "content": text}]
        pieces = form.template.pieces(messages, enable_thinking=switch)
        assert form.markup.begins_thinking(pieces) == opened
    by_text = spelled()
    assert by_text.markup.begins_thinking([("<|im_start|>", True), ("assistant\n<think>\n", False)])
    assert not form.markup.begins_thinking([])


def test_a_second_loop_over_a_generation_ends() -> None:
    async def work(generation: Generation) -> None:
        generation.finish(Answer("x"))

    async def loops() -> list[int]:
        generation = Generation(work)
        return [len([delta async for delta in generation]) for _ in range(2)]

    assert asyncio.run(asyncio.wait_for(loops(), 5)) == [0, 0]
