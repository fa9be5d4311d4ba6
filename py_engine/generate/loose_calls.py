"""Turns the pieces between an answer's marks into its parts: finds calls that lack their opening mark, and the call
that a lone closing mark belongs to."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from py_engine.generate.bare_calls import BareCalls
from py_engine.generate.tool_schema import Schemas
from py_engine.generate.tool_syntax import CallError
from py_engine.generate.tools import ToolCall, tool_calls

MAX_CALL_CHARS = 1 << 18
MAX_TRIED_CHARS = 4 * MAX_CALL_CHARS  # the most characters of one answer in attempts to read a call

Reasoning = tuple[Literal["reasoning"], str]
Content = tuple[Literal["content"], str]
Called = tuple[Literal["call"], ToolCall]
Part = Reasoning | Content | Called
# Pieces that are not settled yet: text in which no call is looked for, and a closing mark without a call.
Failed = tuple[Literal["failed"], str]
Stray = tuple[Literal["stray"], str]
Piece = Part | Failed | Stray


class LooseCalls:
    """Settles the pieces of one answer. Without `schemas` (no tools were offered) all text is text.

    `told`: an error says already that a call was left as text; closing marks that follow may belong to that call.
    """

    def __init__(self, schemas: Schemas, errors: list[str]) -> None:
        self._schemas = schemas
        self._errors = errors
        self._bare = BareCalls(schemas, MAX_CALL_CHARS) if schemas else None
        self._after_call = False  # only white space came since the last call
        self._skip_space = False  # leave out white space, after a call that was found here
        self._tried = 0  # characters in attempts to read a call
        self.told = False

    def tell(self, reason: str) -> None:
        """Add an error: why a call was left as text."""
        self._errors.append(f"a tool call was left as text: {reason}")

    def try_to_read(
        self, body: str, final: bool = False
    ) -> tuple[list[ToolCall], list[str]] | None:
        """The calls in a text that a mark ended, as `tool_calls` gives them. None when it cannot be read, or when too
        much was tried already."""
        self._tried += len(body)
        if self._tried > MAX_TRIED_CHARS:
            return None
        try:
            return tool_calls(body, self._schemas, closed=True, final=final)
        except CallError:
            return None

    def parts(self, pieces: Iterable[Piece]) -> list[Part]:
        """The parts that are certain after these pieces."""
        parts: list[Part] = []
        for piece in pieces:
            if piece[0] == "reasoning":
                parts.append(piece)
            elif piece[0] == "call":
                parts += [*self._no_call(), piece]
                self._after_call = True
            elif piece[0] == "stray":
                parts += self._stray(piece[1])
            elif piece[0] == "failed":
                parts += [*self._no_call(), *self._text(piece[1])]
            else:
                parts += self._content(piece[1])
        return parts

    def end(self, stopped: bool) -> list[Part]:
        """The parts that were held back, at the end of the answer: a call if the answer holds nothing else."""
        if self._bare is None:
            return []
        if not self._bare.holds or not self._bare.whole or not stopped:
            return self._no_call()
        held = self._bare.take()
        try:
            calls, told = tool_calls(held, self._schemas)
        except CallError as error:
            if self._bare.names_one(held):
                self.tell(f"{error}; it has no marks")
            return self._text(held)
        self._errors += told
        return [("call", call) for call in calls]

    def _text(self, text: str) -> list[Part]:
        """A part of text in which no call is looked for."""
        if self._bare:
            self._bare.passed(text)
        self._seen(text)
        return [("content", text)] if text else []

    def _seen(self, text: str) -> None:
        if text.strip():
            self._after_call = self._skip_space = False

    def _content(self, text: str) -> list[Part]:
        """Text that may hold a call without a mark."""
        if self._skip_space:
            text = text.lstrip()
        self._seen(text)
        if self._bare is None:
            return [("content", text)] if text else []
        shown, told = self._bare.feed(text)
        if told:
            self.tell("it stands in the answer without its marks")
        return [("content", shown)] if shown else []

    def _no_call(self) -> list[Part]:
        """The text that was held back, when it is no call."""
        if self._bare is None:
            return []
        told = self._bare.holds
        held = self._bare.take()
        if told and self._bare.names_one(held):
            self.tell("it stands in the answer without its marks")
        return self._text(held)

    def _stray(self, mark: str) -> list[Part]:
        """A closing mark without an opening one."""
        assert self._bare is not None
        if self._bare.holds:
            held = self._bare.take()
            if found := self.try_to_read(held):
                calls, told = found
                self._errors += told
                self._after_call = self._skip_space = True
                return [("call", call) for call in calls]
            self.tell("it has no opening mark, and cannot be read")
            return self._text(held + mark)
        left = self._no_call()
        if self._after_call:
            return left  # the mark of the last call came twice
        if not self.told:
            self.tell("it has no opening mark")
            self.told = True
        return [*left, *self._text(mark)]
