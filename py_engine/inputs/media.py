"""Pictures and videos among the parts of messages: taken out, so that a template sees only that there is one.

What is inside one (bytes, an address, numbers) is not looked at here: py_engine/pictures reads it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from py_engine.arguments import shown
from py_engine.errors import InputError

from .messages import OWN, Message

Kind = Literal["image", "video"]
IMAGE_PARTS = ("image_url", "input_image", "image")
VIDEO_PARTS = ("video",)
_TYPE = ("type",)
_IGNORED = ("detail", "cache_control", "id")  # for servers, not for the model
# The keys under which each part has its content; one of them. HF's templates name addresses and paths.
_CONTENT: Mapping[str, Sequence[str]] = {
    "image_url": ("image_url",),
    "input_image": ("image_url", "image"),
    "image": ("image", "pixels", "patches", "url", "path", "image_url"),
    "video": ("frames", "video"),
}
# Further keys: of raw pixels, of patches, of a video.
_MORE: Mapping[str, Sequence[str]] = {
    "image_url": (),
    "input_image": (),
    "image": ("width", "height", "grid"),
    "video": ("fps",),
}


@dataclass(frozen=True, eq=False)
class Medium:
    """A picture or a video of a message, as the caller gave it.

    `message`: index of its message. `where`: its place for errors, as messages[0].content[1]. `form`: the key that had
    its `content`. `more`: the other keys, as width, height, grid, fps.
    """

    kind: Kind
    message: int
    where: str
    form: str
    content: Any
    more: Mapping[str, Any]


def take_media(messages: Any) -> tuple[Any, list[Medium]]:
    """The messages with {"type": "image" or "video", "medium": number} in the place of each such part, and what was
    there, by number. Anything that is no list of messages is given back as it is: `check_messages` refuses it. Raises
    InputError for a part without its content, and for pictures of an assistant or a system prompt."""
    if isinstance(messages, (str, bytes, Mapping)) or not isinstance(messages, Sequence):
        return messages, []
    media: list[Medium] = []
    taken = [_without(message, i, media) for i, message in enumerate(messages)]
    return (taken, media) if media else (messages, [])


def listed(images: Any) -> list[Medium]:
    """Pictures in a list by themselves, beside ids: each as a part "image" has it under `image`, or the part's keys
    ({"patches": ..., "grid": ...}). Raises InputError."""
    if images is None:
        return []
    if isinstance(images, (str, bytes, Mapping)) or not isinstance(images, Sequence):
        raise InputError(f"images={shown(images)}: give a list of pictures")
    return [
        _medium(
            {"type": "image", **(image if isinstance(image, Mapping) else {"image": image})},
            "image",
            0,
            f"images[{n}]",
        )
        for n, image in enumerate(images)
    ]


def media_of(messages: Sequence[Message], media: Sequence[Medium]) -> list[Medium]:
    """The pictures and videos of some of the messages that `take_media` gave, in their order."""
    contents = (message.get("content") for message in messages)
    parts = (part for content in contents if isinstance(content, list) for part in content)
    return [
        media[part["medium"]] for part in parts if isinstance(part, Mapping) and "medium" in part
    ]


def _without(message: Any, index: int, media: list[Medium]) -> Any:
    content = message.get("content") if isinstance(message, Mapping) else None
    if not isinstance(content, (list, tuple)):
        return message
    parts: list[Any] = []
    for n, part in enumerate(content):
        kind = _kind(part)
        if kind is None:
            parts.append(part)
            continue
        where = f"messages[{index}].content[{n}]"
        role = message.get("role")
        if role in (*OWN, "system", "developer"):
            raise InputError(
                f"{where}: a picture or video can be in messages of users and tools, not of role {shown(role)}"
            )
        parts.append({"type": kind, "medium": len(media)})
        media.append(_medium(part, kind, index, where))
    return {**message, "content": parts}


def _kind(part: Any) -> Kind | None:
    name = part.get("type") if isinstance(part, Mapping) else None
    if not isinstance(name, str):
        return None
    return "image" if name in IMAGE_PARTS else "video" if name in VIDEO_PARTS else None


def _medium(part: Message, kind: Kind, index: int, where: str) -> Medium:
    name = part["type"]
    forms, more = _CONTENT[name], _MORE[name]
    for key in part:
        if key not in (*_TYPE, *_IGNORED, *forms, *more):
            raise InputError(
                f"{where}.{shown(key)}: a part {name!r} has {', '.join((*forms, *more))}"
            )
    given = [key for key in forms if part.get(key) is not None]
    if len(given) != 1:
        found = f"has {' and '.join(given)}" if given else "has none of them"
        raise InputError(f"{where}: a part {name!r} needs one of {', '.join(forms)}, and {found}")
    content = part[given[0]]
    if given[0] == "image_url" and isinstance(content, Mapping):  # OpenAI's chat completions
        content = content.get("url")
        if not isinstance(content, str):
            raise InputError(f"{where}.image_url needs its url, a str")
    rest = {key: part[key] for key in more if part.get(key) is not None}
    return Medium(kind, index, where, given[0], content, rest)
