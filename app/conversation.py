"""The open chat: its turns on the screen, and the answer that is being written.

One answer is written at a time. It goes on when another chat is opened, and in a hidden tab: nothing waits for a frame,
and its end is drawn as soon as the worker reports it.
"""

import asyncio
import time

from app import chats
from app.dom import announce, clear, find, show
from app.rows import AnswerRow, UserRow, seconds_text, speed_text
from app.storage import StoreFull

DRAW_MS = 40  # between two drawings; more where drawing itself is slow
SAVE_MS = 2000  # a tab may be closed at any time
PATIENCE_S = 3  # without a first token, before the wait is counted
NEAR_END = 80  # px from the bottom that still follow the answer


class Running:
    """The answer under way."""

    def __init__(self, chat, message, row):
        self.chat = chat
        self.message = message
        self.row = row
        self.request = None
        self.started = time.ticks_ms()
        self.first_s = None
        self.thinks_since = None  # ticks, while it thinks
        self.tps = 0.0
        self.tokens = 0


class Conversation:
    """`loading` tells which model answers, `settings` how; `on_change` is called when lists and
    buttons are to be drawn anew."""

    def __init__(self, client, loading, settings, on_change, on_problem):
        self._client = client
        self._loading = loading
        self._settings = settings
        self._on_change = on_change
        self._on_problem = on_problem
        self._list = find("messages")
        self._scroll = find("scroll")
        self._scroll.addEventListener("scroll", self._scrolled)
        self._follow = True
        self.chat = chats.new()
        self.rows = []
        self.running = None
        self.used = None  # tokens of context that the last answer left

    # ---- which chat

    def open(self, name=None):
        """Show a kept chat, or an empty one."""
        if self.running and self.running.chat["id"] == name:
            self.chat = self.running.chat
        else:
            self.chat = (chats.load(name) if name else None) or chats.new()
        self.used = None
        clear(self._list)
        self.rows = [self._row(i, m) for i, m in enumerate(self.chat["messages"])]
        if self.rows:
            self._list.append(*[row.node for row in self.rows])
        self._follow = True
        asyncio.create_task(self._draw_all(self.rows))
        self._on_change()

    async def _draw_all(self, rows):
        """The newest first, so that a long chat shows its end at once."""
        for row in reversed(rows):
            if rows is not self.rows:
                return
            if isinstance(row, AnswerRow) and not (self.running and self.running.row is row):
                row.draw()
                self._to_end_if_following()
                await asyncio.sleep_ms(0)
        self._to_end_if_following()

    def _row(self, index, message):
        if message["role"] == "user":
            return UserRow(index, message)
        if self.running and self.running.message is message:
            return self.running.row
        return AnswerRow(index, message)

    # ---- asking

    def send(self, text):
        """A new message of the person's, to be answered."""
        message = {"role": "user", "content": text}
        self._append(message)
        self._answer()

    def edit(self, index):
        """Let the person rewrite a message; sending drops what came after it."""

        def resend(text):
            if self.running:
                return
            self._cut(index)
            self.send(text)

        self.rows[index].edit(self.chat["messages"][index]["content"], resend)

    def again(self, index):
        """Answer anew, dropping that answer and what came after it."""
        if self.running:
            return
        while index >= 0 and self.chat["messages"][index]["role"] != "user":
            index -= 1
        if index >= 0:
            self._cut(index + 1)
            self._answer()

    def stop(self):
        """End the answer now; what is there stays."""
        running = self.running
        if not running:
            return
        self._client.end(running.request)
        self._finish(running, "abort")
        announce("Stopped")

    def _append(self, message):
        self.chat["messages"].append(message)
        row = self._row(len(self.rows), message)
        self.rows.append(row)
        self._list.append(row.node)
        return row

    def _cut(self, index):
        for row in self.rows[index:]:
            row.node.remove()
        del self.rows[index:]
        del self.chat["messages"][index:]

    def _answer(self):
        asked = self._request()
        message = {"role": "assistant", "content": "", "reasoning": "", "model": self._model_name()}
        row = self._append(message)
        self.running = running = Running(self.chat, message, row)
        row.growing(True)
        self._follow = True
        self._save(self.chat)
        running.request = self._client.ask(
            "generate",
            lambda heard: self._heard(running, heard),
            options=self._settings.options(self._loading.info),
            **asked,
        )
        self._on_change()
        self._to_end_if_following()
        asyncio.create_task(self._draw_while(running))

    def _model_name(self):
        model = self._loading.model or {}
        return model.get("label") or model.get("id") or ""

    def _request(self):
        """What the worker is asked: messages, or for a base model a text to go on with."""
        said = []
        for message in self.chat["messages"]:
            role, text = message["role"], message["content"]
            calls = message.get("tool_calls")
            if calls and not self._loading.info.get("tool_format"):  # another model made them
                text = "\n".join([text] + [chats.call_text(call) for call in calls]).strip()
                calls = None
            if said and said[-1]["role"] == role:  # an answer failed: two questions in a row
                said[-1]["content"] += "\n\n" + text
            elif text or calls:
                turn = {"role": role, "content": text}
                if message.get("reasoning"):
                    turn["reasoning"] = message["reasoning"]
                if calls:
                    turn["tool_calls"] = calls
                said.append(turn)
        if self.continues():
            return {"prompt": "".join(message["content"] for message in said)}
        if self._settings.system:
            said.insert(0, {"role": "system", "content": self._settings.system})
        return {"messages": said}

    def continues(self):
        """True for a base model, which continues a text rather than answering."""
        model, info = self._loading.model or {}, self._loading.info
        return model.get("kind") == "base" or info.get("chat") is False

    # ---- hearing

    def _heard(self, running, message):
        if self.running is not running:
            return
        status = message["status"]
        if status == "token":
            if running.first_s is None:
                running.first_s = time.ticks_diff(time.ticks_ms(), running.started) / 1000
            self._take(running, message)
            running.tps, running.tokens = message["tps"], message["num_tokens"]
        elif status == "dropped":
            self._forgot(running, len(message["messages"]))
        elif status == "complete":
            self._take(running, message, whole=True)
            running.tps, running.tokens = message["tps"], message["num_tokens"]
            running.first_s = message["ttft_s"]
            if running.chat is self.chat:
                self.used = message["prompt_tokens"] + message["num_tokens"]
            self._finish(running, message["finish_reason"])
            names = [call["function"]["name"] for call in message["tool_calls"]]
            asks = "The answer asks for a tool: " + ", ".join(names) if names else ""
            announce(message["text"] or asks or "The answer is empty")
        elif status == "error":
            kind = message["error_type"]
            if self._loading.state == "none":
                kind = "NoModel"
            running.message["error"] = {
                "type": kind,
                "text": message["error"].split("\nTraceback")[0],
            }
            self._finish(running, "error")

    def _forgot(self, running, count):
        """The model no longer sees the oldest messages: said where that begins, and where it goes further."""
        before = [m["forgot"] for m in running.chat["messages"] if "forgot" in m]
        if before[-1:] != [count]:
            running.message["forgot"] = count

    def _take(self, running, heard, whole=False):
        """What a token message adds, or a complete one says, to the answer."""
        kept = running.message
        if heard["reasoning"]:
            if running.thinks_since is None and "thought_s" not in kept:
                running.thinks_since = time.ticks_ms()
            kept["reasoning"] = (
                heard["reasoning"] if whole else kept["reasoning"] + heard["reasoning"]
            )
        if heard["tool_calls"]:
            kept["tool_calls"] = ([] if whole else kept.get("tool_calls", [])) + heard["tool_calls"]
        kept["content"] = heard["text"] if whole else kept["content"] + heard["text"]
        if whole and heard["tool_call_errors"]:
            kept["unread_calls"] = len(heard["tool_call_errors"])
        if heard["text"] or heard["tool_calls"]:
            self._end_thinking(running)

    def _end_thinking(self, running):
        if running.thinks_since is not None:
            spent = time.ticks_diff(time.ticks_ms(), running.thinks_since)
            running.message["thought_s"] = spent / 1000
            running.thinks_since = None

    def _finish(self, running, reason):
        self.running = None
        self._end_thinking(running)
        running.message["stats"] = {
            "tps": running.tps,
            "ttft_s": running.first_s,
            "tokens": running.tokens,
            "finish": reason,
        }
        running.row.growing(False)
        running.row.draw()
        self._save(running.chat)
        self._on_change()
        self._to_end_if_following()

    async def _draw_while(self, running):
        saved = time.ticks_ms()
        pause = DRAW_MS
        while self.running is running:
            await asyncio.sleep_ms(pause)
            if self.running is not running:
                return
            began = time.ticks_ms()
            self._draw(running)
            took = time.ticks_diff(time.ticks_ms(), began)
            pause = max(DRAW_MS, 3 * took)  # most of the time stays the person's
            if time.ticks_diff(began, saved) > SAVE_MS:
                saved = began
                self._save(running.chat)

    def _draw(self, running):
        parts = []
        if running.tps:
            parts.append(speed_text(running.tps))
        if running.first_s is not None:
            parts.append("first token " + seconds_text(running.first_s))
        elif self._loading.state == "loading":
            parts.append("waiting for the model")
        else:
            waited = time.ticks_diff(time.ticks_ms(), running.started) // 1000
            if waited >= PATIENCE_S:
                parts.append(f"reading, {waited} s")
        running.row.draw(False)
        running.row.growing(True, " \u00b7 ".join(parts))
        self._to_end_if_following()

    def save_now(self):
        """The page is about to go."""
        if self.running:
            self._save(self.running.chat)

    def _save(self, chat):
        try:
            chats.save(chat)
        except StoreFull:
            self._on_problem(
                "This chat is not kept",
                "The browser's store for this page is full. Download and delete chats that you no "
                "longer need; this one stays open until you close the page.",
            )

    # ---- scrolling

    def _scrolled(self, event):
        box = self._scroll
        self._follow = box.scrollHeight - box.scrollTop - box.clientHeight < NEAR_END
        show(find("to-end"), not self._follow)

    def to_end(self):
        """Show the newest message and follow it."""
        self._follow = True
        self._to_end_if_following()

    def _to_end_if_following(self):
        if self._follow:
            self._scroll.scrollTop = self._scroll.scrollHeight
