"""Task `describe`: say what is in a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, fields
from typing import Annotated, Any

from py_engine.errors import InputError
from py_engine.tasks.chat import Chat, ChatRequest
from py_engine.tasks.loaded import Loaded
from py_engine.tasks.text import TextJob, TextRequest, TextTask

PROMPT = "Describe this image."


@dataclass(frozen=True)
class DescribeRequest(TextRequest):
    """A picture, or several, and what is asked of them."""

    image: Annotated[
        Any, "a picture: a file's bytes, a path, a data: address, an array [height, width, 3]"
    ] = None
    _: KW_ONLY
    images: Annotated[Sequence[Any] | None, "several pictures, in the place of one"] = None
    pixels: Annotated[Any, "raw pixels of 1, 3 or 4 bytes each, with width and height"] = None
    width: Annotated[int | None, "pixels across"] = None
    height: Annotated[int | None, "pixels down"] = None
    patches: Annotated[Any, "patches as the tower takes them, float32 [n, k], with grid"] = None
    grid: Annotated[Sequence[int] | None, "of the patches: 1, rows, columns"] = None
    prompt: Annotated[str, "what is asked"] = PROMPT


# Fields that are a part of a message, each alone.
_FORMS = ("image", "pixels", "patches")


class Describe(TextTask[DescribeRequest]):
    """Say what is in a picture, or answer a question about it, without thinking first."""

    name, request = "describe", DescribeRequest
    uses_template = True

    def lacks(self, loaded: Loaded) -> str | None:
        """The model lacks a vision tower, or what a chat takes."""
        if loaded.generating and loaded.vision is None:
            return "a vision tower (or it was loaded with vision='off')"
        return Chat().lacks(loaded)

    def prepare(self, loaded: Loaded, request: DescribeRequest) -> TextJob:
        """A chat with one message: the pictures, then the prompt."""
        if not isinstance(request.prompt, str) or not request.prompt:
            raise InputError("prompt is empty: give some text, or leave it out")
        parts = [*_parts(request), {"type": "text", "text": request.prompt}]
        names = [f.name for f in fields(TextRequest)]
        said = [{"role": "user", "content": parts}]
        options = {name: getattr(request, name) for name in names}
        return Chat().prepare(loaded, ChatRequest(said, enable_thinking=False, **options))


def _parts(request: DescribeRequest) -> list[dict[str, Any]]:
    """The pictures as parts of a message. Raises InputError unless they come in one way."""
    more = {
        name: getattr(request, name)
        for name in ("width", "height", "grid")
        if getattr(request, name) is not None
    }
    given = [name for name in (*_FORMS, "images") if getattr(request, name) is not None]
    if len(given) != 1:
        found = " and ".join(given) or "none of them"
        raise InputError(f"describe takes image, images, pixels or patches; {found} came")
    if given[0] != "images":
        return [{"type": "image", given[0]: getattr(request, given[0]), **more}]
    images = request.images
    if isinstance(images, (str, bytes)) or not isinstance(images, Sequence) or not images or more:
        raise InputError("images: give a list of pictures, and nothing else of them")
    return [
        {"type": "image", **(image if isinstance(image, Mapping) else {"image": image})}
        for image in images
    ]
