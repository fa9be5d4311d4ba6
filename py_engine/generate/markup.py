"""An answer cut at its marks (marks.py): thinking and tool calls told apart from what is meant for people.

thinking     may begin only before the answer does; a mark in the middle of an answer is text
tool calls   may begin wherever the answer is, if tools are offered; what cannot be read stays in the answer as it
             was written. A draft in thinking is no call, unless the answer ends with it, still in thinking
the answer   may stand between marks, too, which are left out
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

from py_engine.generate.loose_calls import MAX_CALL_CHARS, LooseCalls, Part, Piece
from py_engine.generate.marks import Markup
from py_engine.generate.tool_syntax import CallError, inside_value
from py_engine.generate.tools import ToolCall, schemas_of, tool_calls

MAX_INNER_MARKS = 64  # marks inside the strings of one call; each costs a look at all of it
MAX_LOOKED_CHARS = 8 * MAX_CALL_CHARS  # the most characters of all these looks in one call


class Splitter:
    """Cuts the text of one answer into parts, as it comes: ("reasoning" | "content", text) or ("call", ToolCall).

    A part never holds half a mark. White space around thinking and after calls is left out. White space before a call
    is content, since it comes before it is known that a call follows. `thinking`: whether the answer begins inside
    thinking (the prompt may have begun it). `errors`: why calls could not be read, and how others break their schemas.
    """

    def __init__(
        self,
        markup: Markup | None = None,
        tools: Sequence[Mapping[str, Any]] | None = None,
        thinking: bool = False,
    ) -> None:
        self._markup = markup = markup or Markup()
        self._tools = tools
        self._schemas = schemas_of(tools)
        self._calls = markup.calls if tools else None
        self._state: Literal["reasoning", "content", "call"] = (
            "reasoning" if thinking else "content"
        )
        self._think, self._thought = markup.think
        self._answer, self._answered = markup.answer or ("", "")
        tokens = set(markup.ids.values())
        self._in_text = [mark for mark in markup.think if markup.thinks and mark not in tokens]
        self._in_text += markup.answer or ()
        if self._calls:
            self._in_text += self._calls.ends
        self._wrapped = False  # whether the answer began with its own mark
        self._held = ""  # perhaps the beginning of a mark
        self._space = ""  # white space that may yet be left out
        self._begun = False  # whether anything of the answer itself has come
        self._skip_space = thinking  # leave out white space that comes now
        # A call in thinking. It is a draft, unless thinking does not go on after it.
        self._draft: list[str] = []
        self._draft_closed = False
        self._drafted = False  # whether there was a draft after which thinking went on
        self._opening = ""  # the opening mark of the present call
        self._body: list[str] = []  # text of the present call
        self._body_chars = 0
        # Marks that were taken for a part of the call: (place in the body, mark).
        self._inner: list[tuple[int, str]] = []
        # Characters that were looked through to see whether a mark stands in a string.
        self._looked = 0
        self.errors: list[str] = []
        self._loose = LooseCalls(self._schemas, self.errors)

    @property
    def ids(self) -> frozenset[int]:
        """Ids of marks. The decoder must give their text although they are special tokens."""
        return frozenset(self._markup.ids)

    @property
    def thinking(self) -> bool:
        """Whether the text that comes now is thinking."""
        return self._state == "reasoning"

    @property
    def answering(self) -> bool:
        """Whether the text that comes now is the answer itself."""
        return self._state == "content"

    def release(self) -> list[Part]:
        """The parts of the text that was held back as the beginning of a mark, when it is none."""
        return self._loose.parts(self._release())

    @property
    def calls(self) -> bool:
        """Whether calls are possible: tools were offered."""
        return bool(self._schemas)

    def feed(self, text: str, token_id: int | None = None) -> list[Part]:
        """The parts that are certain after the text of one more token."""
        mark = self._markup.ids.get(token_id) if token_id is not None else None
        if mark is None or not text.endswith(mark):
            return self._loose.parts(self._scan(text))
        pieces = [*self._scan(text.removesuffix(mark)), *self._release(), *self._mark(mark)]
        return self._loose.parts(pieces)

    def end(self, stopped: bool) -> list[Part]:
        """The parts that were held back. `stopped`: the model itself ended, so a call may lack its closing mark."""
        pieces = [*self._release()]
        while self._state == "call":
            pieces += self._end_open_call(stopped)
        if self._draft or (self._drafted and self._state == "reasoning"):
            pieces += self._end_draft(stopped)
        if self._state == "content" and not self._begun and self._space:
            pieces.append(("content", self._space))
        self._space = ""
        return [*self._loose.parts(pieces), *self._loose.end(stopped)]

    def _release(self) -> Iterable[Piece]:
        held, self._held = self._held, ""
        return self._plain(held)

    def _scan(self, text: str) -> Iterable[Piece]:
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

    def _mark(self, mark: str) -> Iterable[Piece]:
        calls = self._calls
        if self._state == "call":
            assert calls is not None
            if mark in calls.ends:
                return self._mark_in_call(mark)
        elif self._state == "reasoning":
            if mark == self._thought:
                drafted = [*self._end_thought_draft()]
                self._state, self._space, self._skip_space = "content", "", True
                return drafted
            if mark == self._think and self._skip_space and not self._draft:
                return []  # the prompt had opened it already
            if calls and (mark == calls.open or (self._draft and mark == calls.close)):
                self._draft.append(mark)
                self._draft_closed = mark == calls.close
                return []
        elif mark == self._think and not self._begun:
            self._state, self._space, self._skip_space = "reasoning", "", True
            return []
        elif self._answer and mark == self._answer and not self._begun:
            self._wrapped, self._space, self._skip_space = True, "", True
            return []
        elif self._wrapped and mark == self._answered:
            self._wrapped, self._space, self._skip_space = False, "", True
            return []
        elif calls and mark in calls.ends:
            space, self._space = self._space, ""
            before: list[Piece] = [("content", space)] if space else []
            if mark == calls.close:
                self._begun = True
                return [*before, ("stray", mark)]
            self._begin_call()
            return before
        return self._plain(mark)

    def _plain(self, text: str) -> Iterable[Piece]:
        if self._state == "call":
            self._body.append(text)
            self._body_chars += len(text)
            return self._fail("", "it is too long") if self._body_chars > MAX_CALL_CHARS else []
        if self._draft:
            self._draft.append(text)
            if not (self._draft_closed and text.strip()):
                return []
            text = self._give_up_draft()  # thinking goes on
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
        assert self._calls is not None
        self._state, self._opening = "call", self._calls.open
        self._body, self._body_chars, self._inner, self._looked = [], 0, [], 0
        self._loose.told = False

    def _mark_in_call(self, mark: str) -> list[Piece]:
        """A mark inside a call: it ends the call, or is part of a string."""
        calls = self._calls
        assert calls is not None
        body = "".join(self._body)
        if mark == calls.open and not body.strip():
            self._opening += body + mark  # the opening mark came twice
            self._body, self._body_chars = [], 0
            return []
        self._looked += len(body)
        bounded = len(self._inner) < MAX_INNER_MARKS and self._looked <= MAX_LOOKED_CHARS
        if bounded and inside_value(body):
            found = (
                self._loose.try_to_read(body)
                if body.rstrip().endswith(("}", "]", ")", ">"))
                else None
            )
            if found is None:
                self._inner.append((len(body), mark))
                return list(self._plain(mark))
        pieces = self._end_call(mark if mark == calls.close else "")
        if mark == calls.open:
            self._begin_call()
        return pieces

    def _end_call(self, close: str, closed: bool = True) -> list[Piece]:
        """The calls, or the text as it was written if they cannot be read."""
        try:
            calls, told = tool_calls("".join(self._body), self._schemas, closed)
        except CallError as error:
            return self._fail(close, str(error))
        return self._called(calls, told)

    def _called(self, calls: Sequence[ToolCall], told: Sequence[str]) -> list[Piece]:
        self._state, self._body, self._begun, self._skip_space = "content", [], True, True
        self.errors += told
        return [("call", call) for call in calls]

    def _fail(self, close: str, reason: str) -> list[Piece]:
        """The call as text, as it was written."""
        body = "".join(self._body)
        self._state, self._body, self._begun = "content", [], True
        self._loose.tell(reason)
        self._loose.told = True
        return [("failed", self._opening + body + close)]

    def _end_open_call(self, stopped: bool) -> list[Piece]:
        """End a call at the end of the answer: its closing mark is missing, or was taken for a part of a string."""
        body, inner = "".join(self._body), self._inner
        assert self._calls is not None
        if stopped:
            try:
                return self._called(*tool_calls(body, self._schemas))
            except CallError as error:
                reason = str(error)
        else:
            reason = "it does not end"
        for at, mark in inner:
            rest = body[at + len(mark) :]
            final = not rest.strip() or rest.lstrip().startswith(self._calls.open)
            if mark == self._calls.close and (found := self._loose.try_to_read(body[:at], final)):
                return [*self._called(*found), *self._scan(rest), *self._release()]
        if inner and inner[0][1] == self._calls.close:  # the text after it may hold further calls
            at, mark = inner[0]
            self._body = [body[:at]]
            failed = self._fail(mark, reason)
            return [*failed, *self._scan(body[at + len(mark) :]), *self._release()]
        return self._fail("", reason)

    # -- drafts of calls in thinking

    def _give_up_draft(self) -> str:
        text, self._draft = "".join(self._draft), []
        self._drafted = True
        return text

    def _end_thought_draft(self) -> Iterable[Piece]:
        """At the end of thinking: a draft in it is thinking."""
        pieces = [*self._plain(self._give_up_draft())] if self._draft else []
        self._drafted = False
        return pieces

    def _end_draft(self, stopped: bool) -> list[Piece]:
        """At the end of an answer that is still in thinking: calls at the very end of it count."""
        text = self._give_up_draft()
        if stopped and text:
            inner = Splitter(replace(self._markup, thinks=False, ids={}), self._tools)
            parts = [*inner.feed(text), *inner.end(stopped)]
            calls = [part[1] for part in parts if part[0] == "call"]
            if calls and not any(part[0] != "call" and part[1].strip() for part in parts):
                return self._called(calls, inner.errors)
        self.errors.append("a tool call was left in thinking that did not end")
        return [*self._plain(text)]


def beginning_of(text: str, wanted: Sequence[str]) -> int:
    """Length of the longest end of the text that is a beginning of one of `wanted`, but not all of it."""
    if not any(one[0] in text for one in wanted):
        return 0
    longest = max(len(one) for one in wanted) - 1
    for length in range(min(longest, len(text)), 0, -1):
        end = text[len(text) - length :]
        if any(one.startswith(end) for one in wanted):
            return length
    return 0
