"""Finds out which form of messages a chat template understands, and brings messages into that form.

The source of a template says little: one that names `tool_calls` may print only content, one that names
no role may print any. So small conversations are rendered to find out, each once. Their texts are numbers,
which no template changes.
"""

from __future__ import annotations

import functools
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from py_engine.errors import InputError

from .messages import OWN, REASONING_KEYS, RESULTS, Message, asked_last, has_media, joined

# (messages, more variables) -> the text; raises InputError when the template fails or refuses them
Render = Callable[[Sequence[Message], Mapping[str, Any]], str]
Parts = Literal["joined", "as given", "always"]

MAX_SECONDS = 5.0  # for all questions to one template
MAX_FAILING_SECONDS = 0.3  # a question that fails and took longer is the last one
_A, _B, _C = "60218473", "95037164", "38146092"  # texts of the questions
_TOOL = "51729340"
_OFFERED = [
    {
        "type": "function",
        "function": {
            "name": f"f{_TOOL}",
            "description": _TOOL,
            "parameters": {"type": "object", "properties": {}},
        },
    }
]
_ID = "probe0001"  # id of a call; Mistral's templates require nine letters and digits
_NONSENSE = "qzvx"  # a role that no template knows
# Variables by which templates turn thinking on and off, and what they are for either.
SWITCHES: Mapping[str, tuple[Any, Any]] = {
    "enable_thinking": (True, False),
    "thinking": (True, False),  # Granite 3.2 and 3.3
    "thinking_budget": (-1, 0),  # Seed-OSS: in tokens, -1 without a limit
}
_STANDS_FOR = {"developer": "system", "model": "assistant", "function": "tool"}


@dataclass(frozen=True)
class CallForm:
    """The form of tool calls that a template understands: arguments as an object or as its JSON text; the content
    of a message that only calls; and whether content beside calls is printed."""

    as_text: bool
    empty: Mapping[str, str | None]
    beside: bool = True


class Dialect:
    """The dialect of one template. `render` must give a text without a generation prompt unless told otherwise."""

    def __init__(self, render: Render, think: tuple[str, str] = ("<think>", "</think>")) -> None:
        """`think`: the model's marks of thinking."""
        self._render = render
        self._think = think
        self._left = MAX_SECONDS
        # By role: the role itself, or the one to use when the template does not know it.
        self.role = functools.cache(self._role)
        # What to do with text parts: join them to one text, leave them, or make parts of every text.
        self.parts = functools.cache(self._parts)
        self.takes_text = functools.cache(self._takes_text)

    def lay_out(self, messages: Sequence[Message]) -> list[dict[str, Any]]:
        """Checked messages in the form that this template understands. Tool calls that it does not print
        stay as they are (see `calls`)."""
        last = asked_last(messages)
        return [
            self._message(
                self._with_thinking(message)
                if index > last and "tool_calls" in message and "reasoning" in message
                else message
            )
            for index, message in enumerate(messages)
        ]

    @functools.cached_property
    def tools(self) -> bool:
        """Whether offered tools are printed."""
        asked = self._said("user", _C)
        openings = ([asked], [self._said("system", _C), asked])
        return any(_TOOL in self._ask(opening, tools=_OFFERED) for opening in openings)

    @functools.cached_property
    def calls(self) -> CallForm | None:
        """The form in which calls are printed; None when they are not."""
        for as_text in (False, True):
            for empty in ({}, {"content": None}, {"content": ""}):
                if self._prints(CallForm(as_text, empty)):
                    text = f"w{_A}"
                    beside = self._prints(CallForm(as_text, {"content": text}), text)
                    return CallForm(as_text, empty, beside)
        return None

    @functools.cached_property
    def thinking_switch(self) -> str | None:
        """The first of SWITCHES that changes what is rendered; None when none does."""
        last = [self._said("user", _A)]
        talks = (last, [self._said("system", _B), *last])
        for name, (on, off) in SWITCHES.items():
            for talk in talks:
                texts = [
                    self._ask(talk, add_generation_prompt=True, **{name: v}) for v in (on, off)
                ]
                if texts[0] != texts[1]:
                    return name
        return None

    @functools.cached_property
    def drops_thinking(self) -> bool:
        """Whether thinking inside the content of an earlier answer is left out."""
        asked = self._said("user", _C)
        opening, closing = self._think
        answer = self._said("assistant", f"{opening}\n{_A}\n{closing}\n\n{_B}")
        said = self._ask([asked, answer, asked])
        return _B in said and _A not in said

    @functools.cached_property
    def writes_thinking(self) -> bool:
        """Whether `reasoning` is printed: of a turn that called a tool and goes on, or of any other turn."""
        asked = self._said("user", "1")
        thought = dict.fromkeys(REASONING_KEYS, f"w{_A}")
        form = self.calls or CallForm(False, {"content": ""})
        talks = [[asked, {**talk[1], **thought}, *talk[2:]] for talk in self._calling(form)]
        talks.append([asked, {**self._said("assistant", _B), **thought}])
        return any(f"w{_A}" in self._ask(talk) for talk in talks)

    def _role(self, role: str) -> str:
        other = _STANDS_FOR.get(role)
        if other is None:
            return role
        told = self._ask(_around(role, _A))
        nonsense = self._ask(_around(_NONSENSE, _A, like=role))
        known = _A in told and told.replace(role, "") != nonsense.replace(_NONSENSE, "")
        return role if known else other

    def _parts(self, role: str) -> Parts:
        one = [{"type": "text", "text": _A}]
        two = [*one, {"type": "text", "text": _B}]
        text, single, double = (self._ask(_around(role, c)) for c in (_A, one, two))
        if _A not in double or _B not in double:
            return "joined"
        if _A not in text:
            return "always"
        return "as given" if single == text else "joined"

    def turn_ends(self, cut: Callable[[str], Sequence[tuple[str, bool]]]) -> list[str]:
        """The control tokens that follow an answer: the end of its turn, or if the template writes none,
        the beginning of the next turn. `cut` gives the pieces of a text, (text, is a control token)."""
        ends = []
        asked, answer = self._said("user", _A), self._said("assistant", _B)
        for talk in ([asked, answer], [asked, answer, asked]):
            _, found, rest = self._ask(talk).partition(_B)
            first = next((p for p in cut(rest) if p[1] or p[0].strip()), ("", False))
            if found and first[1]:
                ends.append(first[0])
        return ends

    def _with_thinking(self, message: Message) -> Message:
        """Puts the thinking of a turn whose calls were just answered into its content, if the template neither
        prints `reasoning` nor leaves thinking out."""
        if self.writes_thinking or self.drops_thinking:
            return message
        content = joined(message.get("content"))
        opening, closing = self._think
        if opening != "<think>":
            return {**message, "content": f"{opening}{message['reasoning']}{closing}{content}"}
        thought = f"{opening}\n{message['reasoning']}\n{closing}\n"
        return {**message, "content": f"{thought}\n{content}" if content else thought}

    def _message(self, message: Message) -> dict[str, Any]:
        laid = {**message, "role": self.role(message["role"])}
        content = message.get("content")
        form = self.parts(laid["role"]) if isinstance(content, list) else None
        if has_media(content):  # only parts can say where it is
            laid["content"] = content
        elif form == "joined":
            laid["content"] = joined(content)
        elif (
            isinstance(content, str)
            and not self.takes_text(laid["role"])
            and self.parts(laid["role"]) == "always"
        ):
            laid["content"] = [{"type": "text", "text": content}]
        elif content is None:
            form_of_calls = self.calls if "tool_calls" in message else None
            laid.pop("content", None)
            laid.update(form_of_calls.empty if form_of_calls else {"content": ""})
        if "tool_calls" in message and self.calls and self.calls.as_text:
            laid["tool_calls"] = [_as_text(call) for call in message["tool_calls"]]
        return laid

    def _takes_text(self, role: str) -> bool:
        return _A in self._ask(_around(role, _A))

    def _said(self, role: str, text: str) -> dict[str, Any]:
        return self._message(_message(role, text))

    def _prints(self, form: CallForm, *more: str) -> bool:
        """Whether calls in this form, and these texts, are printed. Some templates print calls only when tools are
        given."""
        wanted = (f"f{_A}", _B, _C, *more)
        said = (
            self._ask(talk, tools=tools)
            for tools in (None, _OFFERED)
            for talk in self._calling(form)
        )
        return any(all(text in one for text in wanted) for one in said)

    def _calling(self, form: CallForm) -> list[list[dict[str, Any]]]:
        """Two conversations with a call: with its result, and without."""
        arguments = {f"k{_B}": _C}
        call = _call(json.dumps(arguments) if form.as_text else arguments, form.empty)
        asked = self._said("user", "1")
        result = {"role": "tool", "name": f"f{_A}", "tool_call_id": _ID, "content": "2"}
        return [[asked, call, result], [asked, call]]

    def _ask(self, messages: Sequence[Message], **more: Any) -> str:
        """What the template renders; "" when it fails, or when the time for questions is spent."""
        if self._left <= 0:
            return ""
        start = time.monotonic()
        try:
            return self._render(messages, more)
        except InputError:
            if time.monotonic() - start > MAX_FAILING_SECONDS:
                self._left = 0.0
            return ""
        finally:
            self._left -= time.monotonic() - start


def _message(role: str, content: Any) -> dict[str, Any]:
    message: dict[str, Any] = {"role": role, "content": content}
    return {**message, "name": f"f{_A}", "tool_call_id": _ID} if role in RESULTS else message


def _around(role: str, content: Any, like: str = "") -> list[Message]:
    """A conversation in which a message of this role (or of the role `like`) is allowed."""
    asked, message = _message("user", _C), _message(role, content)
    like = like or role
    if like in OWN:
        return [asked, message, asked]
    if like in RESULTS:
        return [asked, _call({"arg": _C}, {"content": ""}), message]
    return [message] if like == "user" else [message, asked]


def _call(arguments: Any, empty: Mapping[str, str | None]) -> dict[str, Any]:
    function = {"name": f"f{_A}", "arguments": arguments}
    call = {"id": _ID, "type": "function", "function": function}
    return {"role": "assistant", **empty, "tool_calls": [call]}


def _as_text(call: Message) -> dict[str, Any]:
    function = call["function"]
    text = json.dumps(function["arguments"], ensure_ascii=False)
    return {**call, "function": {**function, "arguments": text}}
