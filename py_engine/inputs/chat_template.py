"""Turns messages into a prompt, by the model's own chat template (Jinja2 source that comes with it).

messages.py   what callers give, checked and in one shape
dialect.py    which form of messages the template understands
shield.py     keeps people's text apart from control tokens
coverage.py   checks that every text is in the prompt
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from py_engine.errors import FormatError, InputError
from py_engine.host.json_text import parse_json

from .coverage import Coverage
from .dialect import SWITCHES, Dialect
from .messages import Message, all_texts, asked_last, check_messages, each_text, joined
from .shield import Marks, Shield
from .tokenizer import Tokenizer, require_text

if TYPE_CHECKING:
    from jinja2 import Template

# Calls to text pieces, (text, is a mark), for templates that do not print tool_calls.
CallWriter = Callable[[Sequence[tuple[str, Mapping[str, Any]]]], Sequence[tuple[str, bool]]]


def find_template(
    config: Mapping[str, Any] | None, jinja: str | None = None, json_text: str | None = None
) -> str | dict[str, str] | None:
    """The template of a model: chat_template.jinja, else `chat_template` of tokenizer_config.json,
    else chat_template.json. A dict when there are several, by name. None when there is none. Raises
    FormatError."""
    given: Any = jinja
    if given is None:
        given = (config or {}).get("chat_template")
    if given is None and json_text is not None:
        try:
            given = parse_json(json_text, "chat_template.json")["chat_template"]
        except (KeyError, TypeError) as error:
            raise FormatError(f"chat_template.json holds no chat_template: {error!r}") from error
    if isinstance(given, list):
        try:
            given = {entry["name"]: entry["template"] for entry in given}
        except (KeyError, TypeError) as error:
            raise FormatError(
                f"tokenizer_config.json: chat_template is malformed: {error!r}"
            ) from error
    if given is None or isinstance(given, str):
        return given
    if not isinstance(given, dict) or not all(isinstance(text, str) for text in given.values()):
        raise FormatError("chat_template must be a string or a list of named strings")
    return given


class ChatTemplate:
    """`source`: what `find_template` gives. Templates are compiled when they are first used.

    `write_calls` puts tool calls into an assistant's content where the template itself does not print
    `tool_calls`. `think`: the model's marks of thinking.
    """

    write_calls: CallWriter | None = None
    think: tuple[str, str] = ("<think>", "</think>")

    def __init__(self, source: str | Mapping[str, str] | None, tokenizer: Tokenizer) -> None:
        self._sources = {"default": source} if isinstance(source, str) else dict(source or {})
        self._tokenizer = tokenizer
        self._compiled: dict[str, Template] = {}
        self._dialects: dict[str, Dialect] = {}
        self._marks = Marks(tokenizer)
        self._environment: Any = None
        self._ends: tuple[int, ...] | None = None

    @property
    def available(self) -> bool:
        """Whether there is a template at all (base models have none)."""
        return bool(self._sources)

    @property
    def source(self) -> str:
        """The Jinja2 source, of all templates where there are several; "" without one."""
        return "\n".join(self._sources.values())

    @property
    def thinking_switch(self) -> bool:
        """Whether `enable_thinking` changes what the template writes, under whichever of SWITCHES. While Jinja2 is not
        there yet (a browser fetches it after the model), it is enough that the template names it."""
        source = self._sources.get("default", "")
        try:
            named = any(name in source for name in SWITCHES)
            return named and self._dialect("default").thinking_switch is not None
        except ImportError:
            return "enable_thinking" in source
        except InputError:  # the template cannot be used at all; the first chat will say so
            return False

    @property
    def turn_ends(self) -> tuple[int, ...]:
        """Ids of the control tokens that the template writes after an answer. Empty while Jinja2 is not there
        yet, and for a template that cannot be used."""
        if self._ends is None and "default" in self._sources:
            try:
                found = self._dialect("default").turn_ends(self._tokenizer.split)
            except (ImportError, InputError):
                return ()
            self._ends = tuple(dict.fromkeys(self._tokenizer.control[text] for text in found))
        return self._ends or ()

    def encode(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Any] | None = None,
        **options: Any,
    ) -> list[int]:
        """Token ids of the prompt; see `pieces`."""
        return self._tokenizer.encode_pieces(self.pieces(messages, tools, **options))

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Any] | None = None,
        **options: Any,
    ) -> str:
        """The prompt as text, for people to read. It does not show which parts are control tokens. Arguments
        as for `pieces`."""
        return "".join(text for text, _ in self.pieces(messages, tools, **options))

    def count_tokens(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Any] | None = None,
        **options: Any,
    ) -> int:
        """Number of tokens of the prompt."""
        return len(self.encode(messages, tools, **options))

    def pieces(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Any] | None = None,
        *,
        add_generation_prompt: bool = True,
        enable_thinking: bool | None = None,
        variables: Mapping[str, Any] | None = None,
    ) -> list[tuple[str, bool]]:
        """The prompt as (text, is a control token) pieces.

        messages  dicts with `role` (one of messages.ROLES) and `content` (str, list of text parts, or
                  None); an assistant's may hold `tool_calls` and `reasoning`; further keys go to the
                  template as they are
        tools     JSON schemas, for the template
        enable_thinking   given to the template, by the name that it has for it, unless None, when the template's
                          own default holds
        variables         more for the template

        Raises InputError for malformed messages, lone surrogates, a model without a template, tools
        or calls that the template does not print, a text that it leaves out (docs/conversations.md
        says what it may), and a template that fails, refuses the messages, reaches for attributes or
        exceeds the limits in sandbox.py.
        """
        name, source = self._choose(tools)
        checked = check_messages(messages)
        given = {"messages": checked, "tools": tools, "variables": dict(variables or {})}
        shield = Shield(self._marks, [source, *all_texts(given)])
        dialect = self._dialect(name)
        if tools and not dialect.tools:
            raise InputError(
                "this model's chat template takes no tools: describe them in the prompt instead"
            )
        values = {
            **shield.hide(given["variables"]),
            "tools": shield.hide(list(tools)) if tools else None,
            "add_generation_prompt": add_generation_prompt,
        }
        if enable_thinking is not None:
            switch = dialect.thinking_switch or "enable_thinking"
            values[switch] = SWITCHES[switch][0 if enable_thinking else 1]
        hidden, tagged, coverage = self._hidden(dialect.lay_out(checked), dialect, shield, source)
        rendered = require_text(self._render(name, hidden, values), "the chat template's result")
        try:
            missing = coverage.missing(rendered, self._render(name, tagged, values))
        except InputError:  # it looks into the texts
            missing = coverage.missing(rendered, None)
        if missing is not None:
            role = checked[int(missing[len("messages[") : missing.index("]")])]["role"]
            raise InputError(
                f"{missing} (role {role!r}) would not be in the prompt: this model's chat template leaves "
                "it out. Leave it out, too, or put it where the template prints it"
            )
        cut = self._tokenizer.split(rendered)
        return [(text if control else shield.show(text), control) for text, control in cut]

    def _hidden(
        self, laid: Sequence[Message], dialect: Dialect, shield: Shield, source: str
    ) -> tuple[list[Message], list[Message], Coverage]:
        """The messages with people's text shielded; the same with every text tagged; and by whom."""
        coverage = Coverage(shield, source)
        hidden: list[Message] = []
        tagged: list[Message] = []
        last = asked_last(laid)
        for index, message in enumerate(laid):
            where = f"messages[{index}]"
            tag = functools.partial(coverage.tag, role=message["role"])
            plain = shield.hide_message(message)
            written = self._to_write(message, dialect)
            if written:
                del plain["tool_calls"]
            tags = each_text(plain, where, tag)
            if written:
                at = f"{where}.tool_calls"
                tags = self._with_calls(tags, message, shield, functools.partial(tag, where=at))
                plain = self._with_calls(plain, message, shield, str)
            if "tool_calls" in message and "reasoning" in message and index > last:
                if not dialect.drops_thinking:
                    coverage.expect(message["reasoning"], f"{where}.reasoning")
            hidden.append(plain)
            tagged.append(tags)
        return hidden, tagged, coverage

    def _to_write(self, message: Message, dialect: Dialect) -> bool:
        """Whether the calls of a message go into its content: where the template does not print them, or
        prints nothing beside them."""
        if "tool_calls" not in message or dialect.calls is None:
            return "tool_calls" in message
        alone = dialect.calls.beside or not joined(message.get("content")).strip()
        return not alone and self.write_calls is not None

    def _with_calls(
        self,
        hidden: Message,
        message: Message,
        shield: Shield,
        change: Callable[[str], str],
    ) -> dict[str, Any]:
        """The hidden message with the calls of `message` written into its content; `change`: what of them is
        no mark."""
        if self.write_calls is None:
            raise InputError(
                "this model's chat template knows no tool calls: leave them out of the messages, or "
                "put them into the content"
            )
        calls = [(c["function"]["name"], c["function"]["arguments"]) for c in message["tool_calls"]]
        pieces = self.write_calls(calls)
        written = "".join(text if mark else change(shield.hide(text)) for text, mark in pieces)
        content = hidden.get("content") or ""
        if isinstance(content, list):
            content = [*content, {"type": "text", "text": written}]
        else:
            content = f"{content}\n{written}" if content else written
        return {**hidden, "content": content}

    def _render(self, name: str, messages: Sequence[Message], values: Mapping[str, Any]) -> str:
        """What the template of this name gives for messages that are in its dialect."""
        template = self._compile(name)
        given = {**self._tokenizer.names, "tools": None, "documents": None, **values}
        text: str = self._environment.render_limited(template, {**given, "messages": messages})
        return text

    def _dialect(self, name: str) -> Dialect:
        self._compile(name)  # a template that cannot be used fails here, once
        if name not in self._dialects:

            def ask(messages: Sequence[Message], more: Mapping[str, Any]) -> str:
                return self._render(name, messages, {"add_generation_prompt": False, **more})

            self._dialects[name] = Dialect(ask, self.think)
        return self._dialects[name]

    def _choose(self, tools: Sequence[Any] | None) -> tuple[str, str]:
        for name in (["tool_use"] if tools else []) + ["default"]:
            if name in self._sources:
                return name, self._sources[name]
        raise InputError(
            "this model has no chat template (it is a base model, or its files are incomplete): "
            "complete a prompt instead, or give a template"
        )

    def _compile(self, name: str) -> Template:
        if self._environment is None:
            from .sandbox import LimitedEnvironment  # Jinja2 takes 0.3 s to import in a browser

            self._environment = LimitedEnvironment()
        if name not in self._compiled:
            self._compiled[name] = self._environment.compile_limited(self._sources[name])
        return self._compiled[name]
