"""The open chat: its turns on the screen, and the answer that is being written.

One answer is written at a time. It goes on when another chat is opened, and in a hidden tab: nothing waits for an
animation frame, and the end is drawn as soon as the worker reports it. What another tab writes in the same chat
appears here, too.
"""

import asyncio
import json

from pyscript.js_modules import picture_view

from app import chats
from app.attachments import enlarge, sees
from app.clock import now_ms, since_ms, sleep_ms
from app.documents import NotSearched
from app.dom import announce, clear, find, show
from app.rows import AnswerRow, UserRow
from app.running import Running
from app.sources import kept_sources, show_passage
from app.turns import add_passages, picture_ids, turns

DRAW_MS = 40  # between two drawings; more where drawing itself is slow
SAVE_MS = 1000  # between two saves of a growing answer: a tab may close at any time
MAX_ARGUMENTS = 100  # of one call: MicroPython's stack is small
NEAR_END = 80  # px from the bottom within which the view follows the answer


class Conversation:
    """`loading` tells which model answers, `settings` how, `documents` what it reads. `on_change` is called when lists
    and buttons must be redrawn, `on_dropped` when the open chat was deleted in another tab."""

    def __init__(self, client, loading, settings, documents, on_change, on_problem, on_dropped):
        self._client = client
        self._loading = loading
        self._documents = documents
        self._settings = settings
        self._on_change = on_change
        self._on_problem = on_problem
        self._on_dropped = on_dropped
        self._list = find("messages")
        self._scroll = find("scroll")
        self._scroll.addEventListener("scroll", self._scrolled)
        self._follow = True
        self._refused = ""  # the store's last refusal that was shown
        self._pending = []  # (chat, messages, chat of the sent draft): saves that the store has not confirmed
        self.chat = chats.new()
        self.rows = []
        self.running: Running | None = None
        self.used = None  # tokens of context in use after the last answer

    # ---- the chat on the screen

    def show(self, chat):
        """Show this chat."""
        if self.running and self.running.chat.id == chat.id:
            chat = self.running.chat
        self.chat = chat
        self.used = None
        clear(self._list)
        self.rows = []
        self._follow = True
        asyncio.create_task(self._draw_all(self._sync()))
        self._on_change()

    async def _draw_all(self, rows):
        """Draw the newest rows first, so that a long chat shows its end at once. The rows are inserted into the page
        only once, because the layout of a long chat takes long."""
        began = now_ms()
        for row in reversed(rows):
            if not row.node.isConnected:
                continue
            if isinstance(row, AnswerRow) and not (self.running and self.running.row is row):
                row.draw()
            if since_ms(began) > DRAW_MS:
                self._to_end_if_following()
                await sleep_ms(0)
                began = now_ms()
        self._to_end_if_following()

    def _sync(self):
        """Create a row for each message that is shown; returns the new ones, which are not drawn yet."""
        shown = self.chat.messages
        before = {row.message["id"]: row for row in self.rows}
        rows = []
        fresh = []
        for number, message in enumerate(shown):
            row = before.get(message["id"])
            if row is None or row.message is not message:
                row = self._row(message)
                fresh.append(row)
            rows.append(row)
            row.place(number, self.chat.versions(message))
        kept = 0
        while kept < len(rows) and kept < len(self.rows) and rows[kept] is self.rows[kept]:
            kept += 1
        for row in self.rows[kept:]:
            row.node.remove()
        for start in range(kept, len(rows), MAX_ARGUMENTS):
            self._list.append(*[row.node for row in rows[start : start + MAX_ARGUMENTS]])
        self.rows = rows
        return fresh

    def _row(self, message):
        if message["role"] == "user":
            return UserRow(message, self.chat.id)
        if self.running and self.running.message is message:
            return self.running.row
        return AnswerRow(message)

    def switch(self, index, step):
        """Show an earlier (step -1) or later (1) version of a message, and the messages after it."""
        message = self.rows[index].message
        versions = self.chat.versions(message)
        place = versions.index(message) + step
        if not 0 <= place < len(versions):
            return
        self.chat.choose(versions[place])
        self._follow = False
        asyncio.create_task(self._draw_all(self._sync()))
        self.rows[index].focus_versions(step)
        self._keep(self.chat, (), touch=False)
        announce(f"Version {place + 1} of {len(versions)}")
        self._on_change()

    # ---- asking

    def send(self, text, pictures=(), draft=None):
        """Add a message of the user and have it answered. `draft`: id of the chat whose draft it was."""
        question = asked(text, self.chat.last(), pictures)
        self._answer(question["id"], question, follow=True, sent=draft)

    def edit(self, index):
        """Let the user rewrite a message; sending it adds another version."""
        message = self.rows[index].message

        def resend(text):
            if not self.running:
                question = asked(text, message["parent"], message.get("pictures"))
                self._answer(question["id"], question)

        self.rows[index].edit(message["content"], resend)

    def enlarge(self, index, name):
        """Show a picture of a message in the large view."""
        for picture in self.rows[index].message["pictures"]:
            if picture["id"] == name:
                enlarge(self.chat.id, picture)

    def show_passage(self, index, number):
        """Show a passage that an answer was given."""
        show_passage(self.rows[index].message, number)

    def again(self, index):
        """Answer again: adds another version of that answer."""
        if self.running:
            return
        while index >= 0 and self.rows[index].message["role"] != "user":
            index -= 1
        if index >= 0:
            self._answer(self.rows[index].message["id"])

    def stop(self, keep=True):
        """End the answer now; the text so far stays."""
        running = self.running
        if not running:
            return
        if running.request:
            self._client.end(running.request)
        self._finish(running, "abort", keep)
        announce("Stopped")

    def _answer(self, parent, question=None, follow=False, sent=None):
        chat = self.chat
        message = chats.message(
            "assistant", parent, content="", reasoning="", model=self._model_name()
        )
        written = [question, message] if question else [message]
        chat.add(written)
        chat.choose(message)
        self.running = running = Running(chat, message, AnswerRow(message))
        self._sync()
        running.row.growing(True)
        self._follow = True
        self._on_change()
        self._to_end_if_following()
        keeping = self._keep(chat, written, follow=follow, sent=sent, fresh=True, strict=True)
        asyncio.create_task(self._ask(running, keeping))
        asyncio.create_task(self._draw_while(running))

    async def _ask(self, running: Running, keeping):
        """Wait until the question is saved, then send it to the model."""
        if await keeping:
            running.chat.choose(running.message)
            if running.chat is self.chat:
                await self._draw_all(self._sync())
        try:
            context = await self._recall(running)
        except NotSearched as error:
            if self.running is running:
                running.message["error"] = {"type": "NoEmbedder", "text": str(error)}
                self._finish(running, "error")
            return
        if self.running is not running:
            return
        request = self._request(running, context)
        ids = picture_ids(request.get("messages", ()))
        urls = await picture_view.urls(running.chat.id, json.dumps(ids)) if ids else None
        if self.running is not running:
            return
        running.request = self._client.ask(
            "generate",
            lambda heard: self._heard(running, heard),
            urls,
            options=self._settings.options(self._loading.info),
            **request,
        )

    def _model_name(self):
        model = self._loading.model or {}
        return model.get("label") or model.get("id") or ""

    async def _recall(self, running):
        """Return what the documents of the chat say about the question, as a text for the model. Raises NotSearched."""
        question = running.chat.before(running.message)[-1]["content"]
        if not question.strip() or self.continues() or not self._documents.has(running.chat):
            return ""
        running.searches = True
        found = await self._documents.recall(running.chat, question)
        running.searches = False
        if found["items"]:
            running.message["sources"] = kept_sources(found["items"])
        return found["context"]

    def _request(self, running, context):
        """Return the request to the worker: messages, or the text that a base model continues."""
        path = running.chat.before(running.message)
        if self.continues():
            said = turns(path, False, False)
            return {"prompt": "".join([turn["content"] for turn in said])}
        said = turns(path, self._loading.info.get("tool_format"), sees(self._loading))
        add_passages(said, context)
        if self._settings.system:
            said.insert(0, {"role": "system", "content": self._settings.system})
        return {"messages": said}

    def continues(self):
        """Tell whether the model is a base model, which continues a text rather than answering."""
        model, info = self._loading.model or {}, self._loading.info
        return model.get("kind") == "base" or info.get("chat") is False

    # ---- messages of the worker

    def _heard(self, running: Running, message):
        if self.running is not running:
            return
        status = message["status"]
        if status == "token":
            running.take(message)
        elif status == "dropped":
            running.forgot(len(message["messages"]))
        elif status == "complete":
            running.take(message, whole=True)
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

    def _finish(self, running, reason, keep=True):
        self.running = None
        running.end(reason)
        running.row.growing(False)
        running.row.draw()
        if keep:
            self._keep(running.chat, [running.message], strict=True)
        self._on_change()
        self._to_end_if_following()

    async def _draw_while(self, running):
        saved = now_ms()
        pause = DRAW_MS
        while self.running is running:
            await sleep_ms(pause)
            if self.running is not running:
                return
            began = now_ms()
            running.row.draw(False)
            running.row.growing(True, running.state(self._loading.state == "loading"))
            self._to_end_if_following()
            took = since_ms(began)
            pause = max(DRAW_MS, 3 * took)  # most of the time is left for the user's input
            if since_ms(saved, began) > SAVE_MS and not running.saving:
                saved = began
                asyncio.create_task(self._save_growing(running))

    # ---- saving

    async def _save_growing(self, running):
        running.saving = True
        await self._keep(running.chat, [running.message])
        running.saving = False

    def _keep(self, chat, messages, **how):
        """Save these in the store. Returns a task whose result tells whether another tab's messages came in. Until the
        task ends, `unsaved` lists these messages."""
        entry = (chat, messages, how.get("sent"))
        self._pending.append(entry)
        return asyncio.create_task(self._keep_pending(entry, how))

    async def _keep_pending(self, entry, how):
        chat, messages, _ = entry
        others = await self._save(chat, messages, how)
        self._pending = [other for other in self._pending if other is not entry]
        return others

    async def _save(self, chat, messages, how):
        """Save; return whether another tab's messages came in. The same error is not shown twice in a row."""
        try:
            others = await chats.save(chat, messages, **how)
        except chats.Gone:
            if not how.get("fresh"):
                await self.dropped(chat.id)
                return False
            chats.revive(chat)  # the user goes on with this chat
            return await self._save(chat, messages, how)
        except chats.NotKept as error:
            if self._refused != str(error):
                self._refused = str(error)
                self._on_problem("This chat is not kept", refusal(error))
            return False
        self._refused = ""
        return others

    def unsaved(self):
        """Return [(chat, messages, chat of the sent draft or None)] that the store may not have. For a page that is
        about to close."""
        growing = [(self.running.chat, [self.running.message], None)] if self.running else []
        return self._pending + growing

    def held(self):
        """Return the chats in memory, which may be newer than the store."""
        found = [self.chat] if len(self.chat) else []
        if self.running and self.running.chat is not self.chat:
            found.append(self.running.chat)
        return found

    # ---- other tabs

    async def wrote(self, name, ids, outdated, fresh):
        """Another tab saved these messages of a chat. `outdated`: messages that they replace. `fresh`: one of them is
        a new turn of the user, shown if no answer is being written."""
        for chat in self.held():
            if chat.id != name:
                continue
            own = self.running and self.running.chat is chat and self.running.message["id"]
            found = await chats.some(chat, [each for each in ids if each != own])
            busy = bool(own) or bool(self._list.querySelector(".edit"))
            chats.take(chat, found, outdated, busy or not fresh)
            if found and fresh and not busy:
                chat.choose(found[-1])
            if chat is self.chat:
                await self._draw_all(self._sync())
        if fresh and name == self.chat.id:
            announce("This chat was continued in another tab")
        self._on_change()

    async def catch_up(self):
        """Read the open chat from the store again: the page may have missed changes."""
        if not self.chat.kept:
            return
        found = await chats.load(self.chat.id)
        if found is None or not len(found[0]):
            await self.dropped(self.chat.id)
            return
        mine = {message["id"]: message for message in self.chat.all()}
        news = [m["id"] for m in found[0].all() if mine.get(m["id"]) != m]
        await self.wrote(self.chat.id, news, [], True)

    async def dropped(self, name):
        """A chat (None: every one) was deleted, here or in another tab. Nothing more is written to it."""
        if self.running and name in (None, self.running.chat.id):
            self.stop(keep=False)
        self._pending = [entry for entry in self._pending if name not in (None, entry[0].id)]
        if name in (None, self.chat.id) and len(self.chat):
            self._on_dropped()

    # ---- scrolling

    def _scrolled(self, event):
        box = self._scroll
        self._follow = box.scrollHeight - box.scrollTop - box.clientHeight < NEAR_END
        show(find("to-end"), not self._follow)

    def stay_at_end(self):
        """The message box has grown: what was in view above it stays so."""
        self._to_end_if_following()

    def to_end(self):
        """Show the newest message and follow it."""
        self._follow = True
        self._to_end_if_following()

    def _to_end_if_following(self):
        if self._follow:
            show(find("to-end"), False)  # a chat that does not scroll gets no scroll event
            self._scroll.scrollTop = self._scroll.scrollHeight


def asked(text, parent, pictures):
    """Return a new message of the user, with its pictures."""
    fields = {"pictures": list(pictures)} if pictures else {}
    return chats.message("user", parent, content=text, **fields)


def refusal(error):
    """Return why the store did not save, and what to do, in words."""
    if error.full:
        return (
            "The browser's store for this page is full. Download and delete chats or models that you no "
            "longer need; this chat stays open until you close the page."
        )
    return f"The browser's store refused it: {error}. Download the chat before you close the page."
