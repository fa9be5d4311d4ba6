"""The two kinds of turn on the screen: what the person wrote, and an answer as it comes."""

from app.dom import button, clear, show, stamp
from app.markdown import Markdown

OPEN, CLOSE = "<think>", "</think>"


def split_thinking(text):
    """(thinking or None, whether it has ended, answer) of an answer's text."""
    start = text.lstrip()
    if start.startswith(OPEN):
        inside, mark, rest = start[len(OPEN) :].partition(CLOSE)
        return inside.strip(), bool(mark), rest.lstrip()
    if CLOSE in text:  # the template had opened it
        inside, _, rest = text.partition(CLOSE)
        return inside.strip(), True, rest.lstrip()
    if start and OPEN.startswith(start):
        return None, False, ""  # perhaps the beginning of the mark
    return None, True, text


class UserRow:
    """A message of the person's."""

    def __init__(self, index, message):
        self.node = stamp("t-user")
        self.node.setAttribute("data-index", str(index))
        self._bubble = self.node.querySelector(".bubble")
        self._bubble.textContent = message["content"]
        self._tools = self.node.querySelector(".tools")
        self._form = None

    def edit(self, text, on_send):
        """Put a form in the bubble's place."""
        self.end_edit()
        self._form = form = stamp("t-edit")
        box = form.querySelector("textarea")
        box.value = text

        def submit(event):
            event.preventDefault()
            if box.value.strip():
                on_send(box.value.strip())

        def key(event):
            if event.key == "Enter" and not event.shiftKey and not event.isComposing:
                submit(event)
            elif event.key == "Escape":
                event.stopPropagation()
                self.end_edit()

        form.addEventListener("submit", submit)
        form.addEventListener("keydown", key)
        show(self._bubble, False)
        show(self._tools, False)
        self._bubble.after(form)
        box.focus()

    def end_edit(self):
        """Back to the bubble."""
        if self._form:
            self._form.remove()
            self._form = None
            show(self._bubble)
            show(self._tools)
            self.node.querySelector("[data-do=edit]").focus()


class AnswerRow:
    """An answer, finished or growing. `draw` shows what `feed` brought."""

    def __init__(self, index, message):
        self.message = message
        self.node = stamp("t-answer")
        self.node.setAttribute("data-index", str(index))
        self._text = self.node.querySelector(".text")
        self._stats = self.node.querySelector(".stats")
        self._thinking = None
        self._markdown = Markdown(self._text)
        self._shown = 0  # characters of the answer given to the markdown
        self._drawn = None

    def draw(self, last=True):
        """Show the message as it is now. `last`: no more text comes."""
        text = self.message["content"]
        if text != self._drawn or last:
            self._drawn = text
            thinking, ended, answer = split_thinking(text)
            if thinking:
                self._draw_thinking(thinking, ended or last)
            if len(answer) < self._shown:  # what looked like an answer was thinking
                clear(self._text)
                self._markdown = Markdown(self._text)
                self._shown = 0
            self._markdown.feed(answer[self._shown :])
            self._shown = len(answer)
            self._markdown.render(last)
        if last:
            self._draw_problem()
            self._stats.textContent = stats_text(self.message)

    def growing(self, yes, stats=""):
        """Mark it as under way, and say how fast."""
        show(self.node.querySelector(".wait"), yes and not self.message["content"])
        if yes:
            self.node.classList.add("streaming")
            self.node.setAttribute("aria-busy", "true")
        else:
            self.node.classList.remove("streaming")
            self.node.removeAttribute("aria-busy")
        if yes:
            self._stats.textContent = stats

    def _draw_thinking(self, text, ended):
        if self._thinking is None:
            self._thinking = self.node.querySelector(".thinking")
            show(self._thinking)
        self._thinking.children[0].textContent = "Thought" if ended else "Thinking\u2026"
        self._thinking.children[1].textContent = text

    def _draw_problem(self):
        card = self.node.querySelector(".problem")
        error = self.message.get("error")
        show(card, bool(error))
        if not error:
            return
        card.querySelector("p").textContent = error["text"][:1].upper() + error["text"][1:]
        row = card.querySelector(".row")
        clear(row)
        for text, action in remedies(error["type"]):
            row.append(button(text, action))


def remedies(kind):
    """(words, action) of the buttons under an error, by its class of py_engine/errors.py."""
    if kind in ("HostError", "NoAdapterError", "OutOfMemoryError", "DeviceLostError"):
        return (("Load the model again", "reload-model"), ("Choose another model", "open-models"))
    if kind == "ContextError":
        return (("New chat", "new-chat"), ("Settings", "open-settings"), ("Try again", "again"))
    if kind == "NoModel":
        return (("Choose a model", "open-models"), ("Try again", "again"))
    return (("Try again", "again"),)


def stats_text(message):
    """Speed and length of a finished answer, in words."""
    stats = message.get("stats")
    if not stats:
        return ""
    parts = []
    if stats.get("tps"):
        parts.append(speed_text(stats["tps"]))
    if stats.get("ttft_s"):
        parts.append("first token " + seconds_text(stats["ttft_s"]))
    if stats.get("tokens"):
        parts.append(str(stats["tokens"]) + (" token" if stats["tokens"] == 1 else " tokens"))
    elif stats.get("finish") == "stop":
        parts.append("the model ended at once")
    ends = {"length": "cut at the limit", "abort": "stopped"}
    if stats.get("finish") in ends:
        parts.append(ends[stats["finish"]])
    return " \u00b7 ".join(parts)


def speed_text(tps):
    """Tokens per second."""
    return ("%.1f tok/s" if tps < 20 else "%.0f tok/s") % tps


def seconds_text(seconds):
    """Two digits that matter."""
    return ("%.2f s" if seconds < 10 else "%.0f s") % seconds
