"""What the model is told of a conversation: the messages of a request to the worker, in the form of OpenAI's API."""

from app.exports import call_text

PICTURE = "picture:"  # + id: stands for a data URL, which public/picture_view.mjs puts in its place


def turns(messages, calls, sees):
    """Return the messages that the model gets. `calls`: it has a format for tool calls (they came from another model
    otherwise); `sees`: it sees pictures (False: it is told their names)."""
    said: list[dict] = []
    for message in messages:
        role, text = message["role"], message["content"]
        asked = message.get("tool_calls")
        if asked and not calls:
            text = "\n".join([text] + [call_text(call) for call in asked]).strip()
            asked = None
        content = _content(text, message.get("pictures"), sees)
        # An answer failed, so two questions follow each other.
        if said and said[-1]["role"] == role:
            said[-1]["content"] = _joined(said[-1]["content"], content)
        elif content or asked:
            turn = {"role": role, "content": content}
            if message.get("reasoning"):
                turn["reasoning"] = message["reasoning"]
            if asked:
                turn["tool_calls"] = asked
            said.append(turn)
    return said


def add_passages(said, context):
    """Put passages of documents before the last question."""
    if context and said:
        said[-1]["content"] = _joined(context, said[-1]["content"])


def picture_ids(said):
    """Return the ids of all pictures in these messages."""
    parts = [
        part for turn in said if not isinstance(turn["content"], str) for part in turn["content"]
    ]
    return [part["image_url"]["url"][len(PICTURE) :] for part in parts if "image_url" in part]


def text_of(turn):
    """Return the text of a message, for a model that continues a text."""
    return (
        turn["content"]
        if isinstance(turn["content"], str)
        else "\n\n".join([part["text"] for part in turn["content"] if "text" in part])
    )


def _content(text, pictures, sees):
    """Return a text, or the parts of a message with pictures: these first, as models are trained on them."""
    if not pictures:
        return text
    if sees is False:
        names = [f"[Picture: {picture.get('alt') or picture['name']}]" for picture in pictures]
        return "\n".join(names + ([text] if text else []))
    parts = [
        {"type": "image_url", "image_url": {"url": PICTURE + picture["id"]}} for picture in pictures
    ]
    return parts + ([{"type": "text", "text": text}] if text else [])


def _joined(first, second):
    if isinstance(first, str) and isinstance(second, str):
        return first + "\n\n" + second
    return _parts(first) + _parts(second)


def _parts(content):
    return [{"type": "text", "text": content}] if isinstance(content, str) else content
