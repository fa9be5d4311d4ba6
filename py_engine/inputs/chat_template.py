"""Messages to a prompt, by the model's own chat template (Jinja2 source that came with it).

People's text must not become control tokens. Before rendering, in every text that people wrote each
character that could begin a control token is swapped for a private-use character that occurs
nowhere else, one for one; after rendering the control tokens are cut out of the result, and only
then the characters are swapped back. Lengths, strip(), split() and JSON stay as they were, and what
joins up across parts or messages cannot form a control token either. In an assistant's messages,
which the model wrote, only special tokens are hidden: templates look for `</think>` in them.

Messages come as OpenAI's API has them and go to the template as Hugging Face's templates expect
them: see `_assistant`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from py_engine.checks import shown
from py_engine.errors import FormatError, InputError
from py_engine.host.json_text import parse_json

from .tokenizer import Tokenizer, require_text

if TYPE_CHECKING:
    from jinja2 import Template

ROLES = (
    "system",
    "developer",
    "user",
    "assistant",
    "model",
    "tool",
    "function",
    "context",
    "document",
)
REASONING_KEYS = ("reasoning_content", "reasoning", "thinking")  # one thing, as templates call it
# Calls to text pieces, (text, is a mark), for templates that do not know tool_calls.
CallWriter = Callable[[Sequence[tuple[str, Mapping[str, Any]]]], Sequence[tuple[str, bool]]]
MAX_DEPTH = 64  # of nesting in tools, arguments and variables
_PRIVATE_FIRST, _PRIVATE_LAST = 0xF0000, 0xFFFFD  # supplementary private use area A


def find_template(
    config: Mapping[str, Any] | None, jinja: str | None = None, json_text: str | None = None
) -> str | dict[str, str] | None:
    """The template of a model: chat_template.jinja, else `chat_template` of tokenizer_config.json,
    else chat_template.json. A dict when there are several by name. None when there is none. Raises
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
    texts = [given] if isinstance(given, str) else list((given or {}).values())
    if not all(isinstance(text, str) for text in texts):
        raise FormatError("chat_template must be a string or a list of named strings")
    return given  # type: ignore[no-any-return]


class ChatTemplate:
    """`source` is what `find_template` gives; templates are compiled at their first use.

    `write_calls` puts tool calls into an assistant's content where the template itself does not know
    `tool_calls`.
    """

    write_calls: CallWriter | None = None

    def __init__(self, source: str | Mapping[str, str] | None, tokenizer: Tokenizer) -> None:
        self._sources = {"default": source} if isinstance(source, str) else dict(source or {})
        self._tokenizer = tokenizer
        self._compiled: dict[str, Template] = {}
        self._environment: Any = None

    @property
    def available(self) -> bool:
        """Whether there is a template at all (base models have none)."""
        return bool(self._sources)

    @property
    def source(self) -> str:
        """The Jinja2 source, of all templates where there are several; "" without one."""
        return "\n".join(self._sources.values())

    def knows(self, word: str) -> bool:
        """Whether a variable or key of this name occurs in the source."""
        return re.search(rf"\b{word}\b", self.source) is not None

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
        """The prompt as text, for people to look at; which of it is control is lost. See
        `pieces`."""
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

        messages  dicts with `role` (one of ROLES) and `content` (str, list of parts with `type`, or
        None); further keys
                  (`tool_calls`, `reasoning_content`, `name`) go to the template as they are
        tools     JSON schemas, for the template
        enable_thinking   given to the template unless None, when the template's own default holds
        variables         more for the template

        Raises InputError for malformed messages, lone surrogates, a model without a template, tools
        or calls that the template does not know, and a template that fails, refuses the messages,
        reaches for attributes or exceeds the limits in sandbox.py.
        """
        name, source = self._choose(tools)
        if tools and name != "tool_use" and not self.knows("tools"):
            raise InputError(
                "this model's chat template takes no tools: describe them in the prompt instead"
            )
        checked = _checked(messages, source)
        given = {"messages": checked, "tools": tools, "variables": dict(variables or {})}
        shield = _Shield(self._tokenizer, [source, *_texts(given)])
        values = {
            **self._tokenizer.names,
            **shield.hide(given["variables"]),
            "messages": [self._hidden(message, shield) for message in checked],
            "tools": shield.hide(list(tools)) if tools else None,
            "documents": None,
            "add_generation_prompt": add_generation_prompt,
        }
        if enable_thinking is not None:
            values["enable_thinking"] = enable_thinking
        template = self._compile(name, source)
        rendered = self._environment.render_limited(template, values)
        cut = self._tokenizer.split(require_text(rendered, "the chat template's result"))
        return [(text if control else shield.show(text), control) for text, control in cut]

    def _hidden(self, message: Mapping[str, Any], shield: _Shield) -> dict[str, Any]:
        """A message with people's text shielded, and its calls where the template looks for them."""
        hidden = shield.hide_message(message)
        if "tool_calls" not in message or self.knows("tool_calls"):
            return hidden
        if self.write_calls is None:
            raise InputError(
                "this model's chat template knows no tool calls: leave them out of the messages, or "
                "put them into the content"
            )
        calls = [(c["function"]["name"], c["function"]["arguments"]) for c in message["tool_calls"]]
        pieces = self.write_calls(calls)
        written = "".join(text if mark else shield.hide(text) for text, mark in pieces)
        content = hidden["content"]
        if isinstance(content, list):
            content = [*content, {"type": "text", "text": written}]
        else:
            content = f"{content}\n{written}" if content else written
        return {**hidden, "content": content}

    def _choose(self, tools: Sequence[Any] | None) -> tuple[str, str]:
        for name in (["tool_use"] if tools else []) + ["default"]:
            if name in self._sources:
                return name, self._sources[name]
        raise InputError(
            "this model has no chat template (it is a base model, or its files are incomplete): "
            "complete a prompt instead, or give a template"
        )

    def _compile(self, name: str, source: str) -> Template:
        if self._environment is None:
            from .sandbox import LimitedEnvironment  # Jinja2 takes 0.3 s to import in a browser

            self._environment = LimitedEnvironment()
        if name not in self._compiled:
            self._compiled[name] = self._environment.compile_limited(source)
        return self._compiled[name]


class _Shield:
    """Swaps characters of people's texts for private ones and back."""

    def __init__(self, tokenizer: Tokenizer, texts: list[str]) -> None:
        control = tokenizer.control
        self._special = {t for t, token_id in control.items() if tokenizer.added[token_id].special}
        used = {
            char for text in texts for char in text if _PRIVATE_FIRST <= ord(char) <= _PRIVATE_LAST
        }
        used |= {char for text in control for char in text}
        free = (chr(n) for n in range(_PRIVATE_FIRST, _PRIVATE_LAST + 1) if chr(n) not in used)
        starts = sorted({text[0] for text in control})
        try:
            self._private = {start: next(free) for start in starts}
        except StopIteration:
            raise InputError("the messages use up all private-use characters") from None
        # A letter or a space is hidden only where a whole control token stands: templates trim and
        # compare.
        loose = [start for start in starts if not (start.isalnum() or start.isspace())]
        self._hide = {ord(start): self._private[start] for start in loose}
        self._show = {ord(private): start for start, private in self._private.items()}
        self._tokenizer = tokenizer
        self._longest = max(map(len, control), default=0)

    def hide(self, value: Any) -> Any:
        """People's values, in depth, keys too."""
        if isinstance(value, str):
            # Whole tokens matter only where some begin with a letter, which stays as it is
            # elsewhere.
            loose = len(self._hide) == len(self._private)
            text = value if loose else self._whole(value, set(self._tokenizer.control))
            return text.translate(self._hide)
        if isinstance(value, Mapping):
            return {self.hide(key): self.hide(item) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [self.hide(item) for item in value]
        return value

    def hide_message(self, message: Mapping[str, Any]) -> dict[str, Any]:
        """A message; its keys and role are words of the format."""
        own = message["role"] in ("assistant", "model")
        hidden: dict[str, Any] = {}
        for key, value in message.items():
            if key == "role":
                hidden[key] = value
            elif own and (key == "content" or key in REASONING_KEYS):
                hidden[key] = self._own(value)
            elif key in ("content", "tool_calls") and isinstance(value, list):
                hidden[key] = [self._part(item) for item in value]
            else:
                hidden[key] = self.hide(value)
        return hidden

    def show(self, text: str) -> str:
        """Back to what people wrote."""
        return text.translate(self._show)

    def _part(self, value: Any) -> Any:
        if not isinstance(value, Mapping):
            return self.hide(value)
        return {key: item if key == "type" else self.hide(item) for key, item in value.items()}

    def _own(self, value: Any) -> Any:
        if isinstance(value, list):
            return [
                {k: v if k == "type" else self._own(v) for k, v in item.items()}
                if isinstance(item, Mapping)
                else self._own(item)
                for item in value
            ]
        return self._whole(value, self._special) if isinstance(value, str) else self.hide(value)

    def _whole(self, text: str, tokens: set[str]) -> str:
        """The first character of whole control tokens, and of a beginning of one at the text's end,
        swapped."""
        chars = list(text)
        for start, stop in self._tokenizer.find_control(text):
            if text[start:stop] in tokens:
                chars[start] = self._private[chars[start]]
        end = "".join(chars).rstrip()
        for at in range(max(0, len(end) - self._longest), len(end)):
            loose = ord(end[at]) in self._hide
            if loose and any(token.startswith(end[at:]) for token in tokens):
                chars[at] = self._private[end[at]]
        return "".join(chars)


def _checked(messages: Sequence[Mapping[str, Any]], source: str) -> list[dict[str, Any]]:
    """Copies of the messages; parts of text are joined for templates that know text only."""
    if isinstance(messages, (str, bytes, Mapping)) or not isinstance(messages, Sequence):
        raise InputError("messages must be a list of {'role': ..., 'content': ...}")
    if not messages:
        raise InputError("messages is empty: give at least one")
    # Templates written for parts ask what the content is.
    knows_parts = re.search(r"is\s+(not\s+)?(string|iterable|sequence|mapping)", source) is not None
    checked: list[dict[str, Any]] = []
    called: dict[str, str] = {}  # names of functions by the ids of their calls
    for index, message in enumerate(messages):
        where = f"messages[{index}]"
        if not isinstance(message, Mapping):
            raise InputError(f"{where} must be a dict with role and content")
        role = message.get("role")
        if not isinstance(role, str) or role not in ROLES:
            raise InputError(f"{where}: role {shown(role)} is not one of {', '.join(ROLES)}")
        if role in ("assistant", "model"):
            message = _assistant(message, where)
            called.update({c["id"]: c["function"]["name"] for c in message.get("tool_calls", ())})
        elif role == "tool" and "name" not in message:  # some templates print it
            name = called.get(str(message.get("tool_call_id")))
            message = {**message, "name": name} if name else message
        content = message.get("content")
        if isinstance(content, (list, tuple)):
            content = _parts(content, where)
            if not knows_parts:
                content = _joined(content, where)
        elif content is None:
            own = role in ("assistant", "model")
            if not own or not (message.get("tool_calls") or message.get("reasoning")):
                raise InputError(f"{where}: content is missing")
            content = ""
        elif not isinstance(content, str):
            raise InputError(
                f"{where}: content must be a str or a list of parts, not {type(content).__name__}"
            )
        checked.append({**message, "content": content})
    return checked


def _assistant(message: Mapping[str, Any], where: str) -> dict[str, Any]:
    """A message of the model's as templates expect it: thinking under each of REASONING_KEYS, or none
    of them; `tool_calls` absent or a list of {id, type, function: {name, arguments}} whose arguments
    are a dict (callers may give the JSON text of one, as OpenAI's API does)."""
    kept = {k: v for k, v in message.items() if k not in (*REASONING_KEYS, "tool_calls")}
    for key in REASONING_KEYS:
        reasoning = message.get(key)
        if reasoning is None or reasoning == "":
            continue
        if not isinstance(reasoning, str):
            raise InputError(f"{where}.{key} must be a str, not {type(reasoning).__name__}")
        kept.update(dict.fromkeys(REASONING_KEYS, reasoning))
        break
    calls = message.get("tool_calls")
    if calls is not None and not isinstance(calls, (list, tuple)):
        raise InputError(f"{where}.tool_calls must be a list, not {type(calls).__name__}")
    if calls:
        kept["tool_calls"] = [
            _call(call, f"{where}.tool_calls[{number}]") for number, call in enumerate(calls)
        ]
    return kept


def _call(call: Any, where: str) -> dict[str, Any]:
    function = call.get("function", call) if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise InputError(f"{where} must be {{'function': {{'name': ..., 'arguments': ...}}}}")
    arguments = function.get("arguments")
    if isinstance(arguments, str):
        try:
            arguments = parse_json(arguments, "it") if arguments.strip() else {}
        except FormatError as error:
            raise InputError(f"{where}.function.arguments is not valid JSON") from error
    if arguments is None:
        arguments = {}
    if not isinstance(arguments, Mapping):
        raise InputError(f"{where}.function.arguments must be an object, or its JSON text")
    identity = call.get("id")
    return {
        **{k: v for k, v in call.items() if k not in ("name", "arguments")},
        "id": identity if isinstance(identity, str) else "",
        "type": "function",
        "function": {**function, "arguments": dict(arguments)},
    }


def _parts(content: Sequence[Any], where: str) -> list[dict[str, Any]]:
    parts = []
    for number, part in enumerate(content):
        if not isinstance(part, Mapping) or not isinstance(part.get("type"), str):
            raise InputError(f"{where}.content[{number}] must be a dict with a type, as 'text'")
        if part["type"] == "text" and not isinstance(part.get("text"), str):
            raise InputError(f"{where}.content[{number}]: a text part needs its text, a str")
        parts.append(dict(part))
    return parts


def _joined(parts: list[dict[str, Any]], where: str) -> str:
    other = next((part["type"] for part in parts if part["type"] != "text"), None)
    if other is not None:
        raise InputError(f"{where}: this model's chat template takes text only, not {shown(other)}")
    return "".join(part["text"] for part in parts)


def _texts(value: Any, where: str = "", depth: int = 0) -> list[str]:
    """All strings inside, checked. Raises InputError for lone surrogates and endless nesting."""
    if depth > MAX_DEPTH:
        raise InputError(f"{where} is nested more than {MAX_DEPTH} deep")
    if isinstance(value, str):
        return [require_text(value, where)]
    if isinstance(value, Mapping):
        found = []
        for key, item in value.items():
            if not isinstance(key, str):
                raise InputError(f"{where}: key {shown(key)} must be a str")
            name = f"{where}.{key}" if where else key
            found += [require_text(key, f"a key of {where}"), *_texts(item, name, depth + 1)]
        return found
    if isinstance(value, (list, tuple)):
        return [t for i, item in enumerate(value) for t in _texts(item, f"{where}[{i}]", depth + 1)]
    return []
