"""The marks in an answer: thinking and tool calls told apart from what is meant for people.

Which marks a model uses is seen in its tokenizer and chat template (`Markup.of`). Where both marks of a pair are added
tokens they count only as those ids: the same letters spelled out are text. Otherwise their text counts; and that of
tool calls always does where tools are offered (Qwen2.5-Coder-0.5B was seen to spell the marks that it has tokens for).

    thinking     may begin only before the answer does; a mark in the middle of an answer is text
    tool calls   may begin wherever the answer is; what cannot be read stays in the answer as it was written
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from py_engine.generate.tool_syntax import CallError, inside_value
from py_engine.generate.tools import (
    JSON_CALLS,
    PYTHON_CALLS,
    TAG_CALLS,
    ToolCall,
    ToolFormat,
    schemas_of,
    tool_calls,
)
from py_engine.inputs.chat_template import CallWriter
from py_engine.inputs.tokenizer import Tokenizer

THINK, THOUGHT = "<think>", "</think>"
MAX_CALL_CHARS = 1 << 18
MAX_INNER_MARKS = 64  # marks inside the strings of one call; each costs a look at all of it

Reasoning = tuple[Literal["reasoning"], str]
Content = tuple[Literal["content"], str]
Called = tuple[Literal["call"], ToolCall]
Part = Reasoning | Content | Called


@dataclass(frozen=True)
class Markup:
    """The marks of a model. `ids`: those that are tokens, by id; the others are found in the text."""

    thinks: bool = False
    calls: ToolFormat | None = None
    ids: Mapping[int, str] = field(default_factory=dict)

    @classmethod
    def of(cls, tokenizer: Tokenizer, template: str) -> Markup:
        """Of a model with this chat template (its Jinja2 source, "" for none)."""
        added = {token.content: token.id for token in tokenizer.added.values()}

        def ids(*marks: str) -> dict[int, str]:
            return {added[m]: m for m in marks} if all(m in added for m in marks) else {}

        calls = _format(template, added)
        thinking = ids(THINK, THOUGHT)
        calling = ids(calls.open, calls.close) if calls else {}
        return cls(bool(thinking) or THOUGHT in template, calls, {**thinking, **calling})

    @property
    def write_calls(self) -> CallWriter | None:
        """How calls are put into an assistant's content; None for a model without them."""
        return self.calls.pieces if self.calls else None

    def begins_thinking(self, prompt: Sequence[tuple[str, bool]]) -> bool:
        """Whether a prompt, in the pieces of `ChatTemplate.pieces`, ends with the mark that opens thinking."""
        for text, control in reversed(prompt):
            if control or text.strip():
                wanted = THINK in self.ids.values()
                found = text == THINK if control else text.rstrip().endswith(THINK)
                return self.thinks and control == wanted and found
        return False


def _format(template: str, added: Mapping[str, int]) -> ToolFormat | None:
    if "<tool_call>" in template:
        return TAG_CALLS if "<function=" in template else JSON_CALLS
    tokens = PYTHON_CALLS.open in added and PYTHON_CALLS.close in added
    return PYTHON_CALLS if PYTHON_CALLS.open in template or (template and tokens) else None


class Splitter:
    """Cuts one answer's text into parts, as it comes: ("reasoning" | "content", text) or ("call", ToolCall).

    Never half a mark. White space around thinking and after calls is left out; white space before a call is told as
    content, since it is not known yet what follows it. `thinking` begins as given (the prompt may have opened it).
    `errors`: why calls could not be read.
    """

    def __init__(
        self,
        markup: Markup | None = None,
        tools: Sequence[Mapping[str, Any]] | None = None,
        thinking: bool = False,
    ) -> None:
        self._markup = markup = markup or Markup()
        self._schemas = schemas_of(tools)
        self._state: Literal["reasoning", "content", "call"] = (
            "reasoning" if thinking else "content"
        )
        pairs = [(THINK, THOUGHT)] if markup.thinks else []
        if markup.calls:
            pairs.append((markup.calls.open, markup.calls.close))
        tokens = set(markup.ids.values())
        self._in_text = [
            mark
            for pair in pairs
            for mark in pair
            if mark not in tokens or (tools and pair[0] != THINK)
        ]
        self._held = ""  # perhaps the beginning of a mark
        self._space = ""  # white space of which it is not known yet whether it counts
        self._begun = False  # whether anything of the answer itself has come
        self._skip_space = thinking  # at the beginning of what comes now
        self._body: list[str] = []  # of the call under way
        self._body_chars = 0
        self._inner_marks = 0
        self.errors: list[str] = []

    @property
    def ids(self) -> frozenset[int]:
        """Ids of marks: the decoder must give their text, though they are special."""
        return frozenset(self._markup.ids)

    @property
    def thinking(self) -> bool:
        """Whether what comes now is thinking."""
        return self._state == "reasoning"

    @property
    def answering(self) -> bool:
        """Whether what comes now is the answer itself."""
        return self._state == "content"

    def release(self) -> list[Part]:
        """What was held back as the beginning of a mark, now that none comes of it."""
        return list(self._release())

    @property
    def calls(self) -> bool:
        """Whether calls may come."""
        return self._markup.calls is not None

    def feed(self, text: str, token_id: int | None = None) -> list[Part]:
        """The parts that the text of one more token made certain."""
        mark = self._markup.ids.get(token_id) if token_id is not None else None
        if mark is None or not text.endswith(mark):
            return list(self._scan(text))
        return [*self._scan(text.removesuffix(mark)), *self._release(), *self._mark(mark)]

    def end(self, stopped: bool) -> list[Part]:
        """What was held back. `stopped`: the model itself ended here, so a call may lack its closing mark."""
        parts = [*self._release()]
        if self._state == "call":
            parts += self._end_call("", "it does not end" if not stopped else None)
        if self._state == "content" and not self._begun and self._space:
            parts.append(("content", self._space))
        self._space = ""
        return parts

    def _release(self) -> Iterable[Part]:
        held, self._held = self._held, ""
        return self._plain(held)

    def _scan(self, text: str) -> Iterable[Part]:
        """Find the marks that are spelled out."""
        text, self._held = self._held + text, ""
        while text and self._in_text:
            found = [(at, mark) for mark in self._in_text if (at := text.find(mark)) >= 0]
            if not found:
                break
            at, mark = min(found)
            yield from self._plain(text[:at])
            yield from self._mark(mark)
            text = text[at + len(mark) :]
        keep = beginning_of(text, self._in_text)
        self._held = text[len(text) - keep :]
        yield from self._plain(text[: len(text) - keep])

    def _mark(self, mark: str) -> Iterable[Part]:
        calls = self._markup.calls
        if self._state == "call":
            assert calls is not None
            if mark in (calls.open, calls.close):
                return self._mark_in_call(mark)
        elif self._state == "reasoning":
            if mark == THOUGHT:
                self._state, self._space, self._skip_space = "content", "", True
                return []
            if mark == THINK and self._skip_space:
                return []  # the prompt had opened it already
        elif mark == THINK and not self._begun:
            self._state, self._space, self._skip_space = "reasoning", "", True
            return []
        elif calls and mark == calls.open:
            space, self._space = self._space, ""
            self._begin_call()
            return [("content", space)] if space else []
        return self._plain(mark)

    def _plain(self, text: str) -> Iterable[Part]:
        if self._state == "call":
            self._body.append(text)
            self._body_chars += len(text)
            return self._end_call("", "it is too long") if self._body_chars > MAX_CALL_CHARS else []
        if self._skip_space:
            # Templates write line feeds between thinking and answer; an indent is the answer's own.
            answer = self._state == "content" and not self._begun
            text = text.lstrip("\r\n" if answer else None)
        if not text:
            return []
        self._skip_space = False
        text, self._space = self._space + text, ""
        if self._state == "reasoning":
            shown = text.rstrip()
            self._space = text[len(shown) :]
            return [("reasoning", shown)] if shown else []
        if not self._begun and self._markup.thinks and text.isspace():
            self._space = text  # thinking may still begin
            return []
        self._begun = True
        return [("content", text)]

    # -- calls

    def _begin_call(self) -> None:
        self._state, self._body, self._body_chars, self._inner_marks = "call", [], 0, 0

    def _mark_in_call(self, mark: str) -> list[Part]:
        """A mark ends the call, or belongs to a string in it."""
        calls = self._markup.calls
        assert calls is not None
        self._inner_marks += 1
        if self._inner_marks <= MAX_INNER_MARKS and inside_value("".join(self._body)):
            return list(self._plain(mark))
        if mark == calls.close:
            return self._end_call(mark)
        parts = self._end_call("")  # the one before was not closed
        self._begin_call()
        return parts

    def _end_call(self, close: str, reason: str | None = None) -> list[Part]:
        """The calls that were read, or what was written; `reason`: why not even to try."""
        assert self._markup.calls is not None
        body = "".join(self._body)
        self._state, self._body = "content", []
        self._begun = True
        try:
            if reason is not None:
                raise CallError(reason)
            calls = tool_calls(body, self._schemas)
        except CallError as error:
            self.errors.append(f"a tool call was left as text: {error}")
            return [("content", self._markup.calls.open + body + close)]
        self._skip_space = True
        return [("call", call) for call in calls]


def beginning_of(text: str, wanted: Sequence[str]) -> int:
    """Length of the longest end of the text that begins one of `wanted` without being it."""
    if not any(one[0] in text for one in wanted):
        return 0
    longest = max(len(one) for one in wanted) - 1
    for length in range(min(longest, len(text)), 0, -1):
        end = text[len(text) - length :]
        if any(one.startswith(end) for one in wanted):
            return length
    return 0
