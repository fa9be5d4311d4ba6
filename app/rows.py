"""The two kinds of turn on the screen: a message of the user, and an answer as it grows."""

import json

from app.attachments import gallery
from app.dom import button, clear, is_enter, is_escape, make, sentence, show, stamp
from app.markdown import Markdown
from app.mending import DAMAGED, UNREADABLE
from app.sources import draw_sources
from app.storage import entries
from app.tree import SPEAKERS

# Answers of more characters are shown as plain text: parsing their markdown would take too long.
LONG = 200_000


class Row:
    """What both kinds share: `message`, as tree.py has it, and its element, `node`."""

    def __init__(self, message, template):
        self.message = message
        self.node = stamp(template)
        self._versions = None  # the element that switches versions, once there are several

    def place(self, number, versions):
        """Set the number of the message in the chat, and its versions."""
        self.node.setAttribute("data-index", str(number))
        count = len(versions)
        if count == 1 and self._versions is None:
            return
        if self._versions is None:
            self._versions = stamp("t-versions")
            self.node.querySelector(".tools").prepend(self._versions)
        at = versions.index(self.message)
        show(self._versions, count > 1)
        earlier, words, later = self._versions.children
        earlier.disabled = at == 0
        later.disabled = at == count - 1
        words.children[0].textContent = f"Version {at + 1} of {count}"
        words.children[1].textContent = f"{at + 1} / {count}"

    def focus_versions(self, step):
        """Focus the button that was pressed to switch versions, or the other one at the first or last version."""
        if self._versions is None:
            return
        earlier, _, later = self._versions.children
        wanted, other = (earlier, later) if step < 0 else (later, earlier)
        (other if wanted.disabled else wanted).focus()


class UserRow(Row):
    """A message of the user. `chat`: the id of its chat."""

    def __init__(self, message, chat):
        super().__init__(message, "t-user")
        self._bubble = self.node.querySelector(".bubble")
        self._bubble.textContent = message["content"]
        show(self._bubble, bool(message["content"]))
        if message.get("pictures"):
            self._bubble.before(gallery(chat, message["pictures"]))
        self._tools = self.node.querySelector(".tools")
        self._form = None

    def edit(self, text, on_send):
        """Show a form instead of the bubble."""
        self.end_edit()
        self._form = form = stamp("t-edit")
        box = form.querySelector("textarea")
        box.value = text

        def submit(event):
            event.preventDefault()
            if box.value.strip() or self.message.get("pictures"):
                on_send(box.value.strip())

        def key(event):
            if is_enter(event):
                submit(event)
            elif is_escape(event):
                event.stopPropagation()
                self.end_edit()

        form.addEventListener("submit", submit)
        form.addEventListener("keydown", key)
        show(self._bubble, False)
        show(self._tools, False)
        self._bubble.after(form)
        box.focus()

    def end_edit(self):
        """Show the bubble again."""
        if self._form:
            self._form.remove()
            self._form = None
            show(self._bubble, bool(self.message["content"]))
            show(self._tools)
            self.node.querySelector("[data-do=edit]").focus()


class AnswerRow(Row):
    """An answer, finished or growing; also a system prompt or a tool's result. `draw` shows the message as it is
    now."""

    def __init__(self, message):
        super().__init__(message, "t-answer")
        # An imported chat may have a system prompt or tool results.
        speaker = SPEAKERS[message["role"]]
        self.node.querySelector("article").setAttribute("aria-label", speaker)
        self._text = self.node.querySelector(".text")
        self._stats = self.node.querySelector(".stats")
        self._calls = self.node.querySelector(".calls")
        self._sources = self.node.querySelector(".sources")
        self._thinking = self.node.querySelector(".thinking")
        self._markdown = Markdown(self._text)
        self._shown = 0  # characters of the answer given to the markdown
        self._thought = None  # the thinking that is shown

    def draw(self, last=True):
        """Draw the message as it is now. `last`: no more text comes."""
        self._draw_forgot()
        self._draw_thinking(last)
        answer = self.message["content"]
        if len(answer) > LONG or self.message.get("error", {}).get("type") == UNREADABLE:
            self._text.classList.add("as-it-is")
            self._text.dir = "auto"
            self._text.textContent = answer
        elif len(answer) != self._shown or last:
            self._markdown.feed(answer[self._shown :])
            self._shown = len(answer)
            self._markdown.render(last)
        for call in self.message.get("tool_calls", ())[self._calls.childElementCount :]:
            self._calls.append(call_block(call))
        if last:
            draw_sources(self._sources, self.message)
            self._draw_problem()
            self._stats.textContent = stats_text(self.message)

    def growing(self, yes, stats=""):
        """Mark the answer as growing, and show its speed."""
        waits = not self.message["content"] and not self.message.get("tool_calls")
        show(self.node.querySelector(".wait"), yes and waits)
        if yes:
            self.node.classList.add("streaming")
            self.node.setAttribute("aria-busy", "true")
            self._stats.textContent = stats
        else:
            self.node.classList.remove("streaming")
            self.node.removeAttribute("aria-busy")

    def _draw_forgot(self):
        count = self.message.get("forgot")
        if count:
            notice = self.node.querySelector(".forgot")
            notice.textContent = forgot_text(count)
            show(notice)

    def _draw_thinking(self, last):
        """Draw the thinking, folded unless the user opens it."""
        thought = self.message.get("reasoning", "")
        if not thought:
            return
        summary, body = self._thinking.children[0], self._thinking.children[1]
        label = thinking_label(self.message, last)
        if summary.textContent != label:
            summary.textContent = label
        if thought != self._thought and (last or self._thinking.open):  # hidden text is not drawn
            self._thought = thought
            body.textContent = thought
        show(self._thinking)

    def _draw_problem(self):
        card = self.node.querySelector(".problem")
        error = self.message.get("error")
        show(card, bool(error))
        if not error:
            return
        card.querySelector("p").textContent = sentence(error["text"])
        row = card.querySelector(".row")
        clear(row)
        for text, action in remedies(error["type"]):
            row.append(button(text, action))


def forgot_text(count):
    """Return how many messages the model no longer sees, in words."""
    what = "first message" if count == 1 else f"first {count} messages"
    return f"The context is full: from here on the model no longer sees the {what} of this chat."


def thinking_label(message, last=True):
    """Return the label of the fold: that the model is thinking, or how long it thought. `last`: it is done."""
    if not (last or message["content"] or message.get("tool_calls")):
        return "Thinking\u2026"
    seconds = message.get("thought_s")
    return "Thought" if seconds is None else f"Thought for {max(1, round(seconds))} s"


def call_block(call):
    """Return a readable tool call: its name, then one argument a line."""
    node = stamp("t-call")
    node.querySelector("strong").textContent = call["function"]["name"]
    rows = node.querySelector("dl")
    for key, text in entries(call["function"]["arguments"]):
        value = make("dd", json.loads(text) if text[:1] == '"' else text)
        value.dir = "auto"
        rows.append(make("dt", key), value)
    return node


def remedies(kind):
    """Return (words, action) of the buttons under an error, by its class of py_engine/errors.py."""
    if kind in ("HostError", "NoAdapterError", "OutOfMemoryError", "DeviceLostError"):
        return (("Load the model again", "reload-model"), ("Choose another model", "open-models"))
    if kind == "ContextError":
        return (("New chat", "new-chat"), ("Settings", "open-settings"), ("Try again", "again"))
    if kind == UNREADABLE:
        return ()
    if kind == "NoEmbedder":
        return (("Choose an embedder", "open-embedder"), ("Try again", "again"))
    if kind == "NoModel":
        return (("Choose a model", "open-models"), ("Try again", "again"))
    return (("Try again", "again"),)


def stats_text(message):
    """Return speed and length of a finished answer, in words."""
    stats = message.get("stats") or {}
    parts = []
    if stats.get("tps"):
        parts.append(speed_text(stats["tps"]))
    if stats.get("ttft_s"):
        parts.append("first token " + seconds_text(stats["ttft_s"]))
    if stats.get("tokens"):
        parts.append(str(stats["tokens"]) + (" token" if stats["tokens"] == 1 else " tokens"))
    elif stats.get("finish") == "stop":
        parts.append("the model ended at once")
    if message.get("unread_calls"):
        parts.append("a tool call was wrong or unreadable")
    ends = {"length": "cut at the limit", "abort": "stopped", "tool_calls": "asks for a tool"}
    if stats.get("finish") in ends:
        parts.append(ends[stats["finish"]])
    elif message.get("model") and not stats and not message.get("error"):
        parts.append("not finished")  # its tab was closed, or is still writing it
    if message.get(DAMAGED):
        parts.append("a part that cannot be read is kept")
    return " \u00b7 ".join(parts)


def speed_text(tps):
    """Return a speed in tokens per second."""
    return ("%.1f tok/s" if tps < 20 else "%.0f tok/s") % tps


def seconds_text(seconds):
    """Return seconds, with two decimals below ten."""
    return ("%.2f s" if seconds < 10 else "%.0f s") % seconds
