"""Task `complete`: continue a plain text, or token ids."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Annotated

from py_engine.arguments import shown, token_ids
from py_engine.errors import InputError
from py_engine.tasks.loaded import Loaded
from py_engine.tasks.text import TextJob, TextRequest, TextTask, text_job


@dataclass(frozen=True)
class CompleteRequest(TextRequest):
    """A prompt, or the ids of one."""

    prompt: Annotated[str | None, "the text; control tokens in it stay plain text"] = None
    _: KW_ONLY
    ids: Annotated[Sequence[int] | None, "token ids in the place of a text"] = None


class Complete(TextTask[CompleteRequest]):
    """Continue a plain text, or token ids."""

    name, request = "complete", CompleteRequest

    def prepare(self, loaded: Loaded, request: CompleteRequest) -> TextJob:
        """Make token ids of the prompt."""
        prompt = request.prompt
        if request.ids is not None:
            if prompt is not None:
                raise InputError("complete takes a prompt or ids, not both")
            ids = token_ids(request.ids, loaded.decoder.model.vocab_size)
            return text_job(loaded, ids, request)
        if not isinstance(prompt, str) or not prompt:
            raise InputError(f"prompt={shown(prompt)}: give some text, a str")
        ids = loaded.tokenizer.encode(prompt, add_special_tokens=True)
        return text_job(loaded, ids, request)
