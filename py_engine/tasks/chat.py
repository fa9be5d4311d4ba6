"""Task `chat`: answer a conversation by the model's chat template."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Annotated, Any

from py_engine.arguments import flag
from py_engine.generate.markup import Splitter
from py_engine.generate.prefix import shared
from py_engine.generate.tools import check_tools
from py_engine.inputs.media import take_media
from py_engine.inputs.window import Messages
from py_engine.tasks.loaded import Loaded
from py_engine.tasks.seen import Seen
from py_engine.tasks.text import TextJob, TextRequest, TextTask, length, text_job


@dataclass(frozen=True)
class ChatRequest(TextRequest):
    """A conversation whose last message is to be answered."""

    messages: Annotated[
        Sequence[Mapping[str, Any]],
        "objects with role (system, user, assistant, tool) and content (a text, or a list of parts: text, pictures),"
        " the last one to be answered",
    ]
    _: KW_ONLY
    tools: Annotated[
        Sequence[Mapping[str, Any]] | None, "what the model may call, as OpenAI's API has it"
    ] = None
    enable_thinking: Annotated[
        bool | None, "let the model think first, or not; default: as its template has it"
    ] = None


class Chat(TextTask[ChatRequest]):
    """Answer a conversation by the model's chat template."""

    name, request = "chat", ChatRequest
    uses_template = True

    def lacks(self, loaded: Loaded) -> str | None:
        """The model lacks a decoder or a chat template."""
        if loaded.generating and not loaded.text.template.available:
            return "a chat template (it is a base model, or its files are incomplete)"
        return super().lacks(loaded)

    def prepare(self, loaded: Loaded, request: ChatRequest) -> TextJob:
        """Lay out the conversation. The oldest turns are left out when it does not fit the context."""
        thinking = flag("enable_thinking", request.enable_thinking)
        offered = check_tools(request.tools)
        text = loaded.text
        messages, media = take_media(request.messages)
        seen = Seen(loaded, media)

        def lay_out(said: Messages) -> list[tuple[str, bool]]:
            return text.template.pieces(said, offered, enable_thinking=thinking)

        prompt = lay_out(messages)
        ids = seen.encode(prompt, messages)
        messages, dropped = text.window.fit(
            messages,
            len(ids),
            lambda said: len(seen.encode(lay_out(said), said)),
            length(request.max_tokens),
        )
        if dropped:
            prompt = lay_out(messages)
            ids = seen.encode(prompt, messages)
        splitter = Splitter(text.markup, offered, text.markup.begins_thinking(prompt))
        border = None
        if loaded.decoder.prefix.recurrent:
            # The next prompt is likely to begin like this one only up to the generation prompt: templates often render
            # what follows in another way once it is history (without thinking).
            said = text.template.pieces(
                messages, offered, enable_thinking=thinking, add_generation_prompt=False
            )
            border = shared(ids, seen.encode(said, messages))
        return text_job(loaded, ids, request, splitter, border, dropped, seen if media else None)
