"""What was not sent: the text in the message box, and the pictures attached to it. It belongs to its chat, and is saved
while it is written. A draft is {"text", "pictures"}."""

import asyncio

from app import chats
from app.clock import sleep_ms
from app.dom import find

PAUSE_MS = 250  # between two saves


def draft(text="", pictures=()):
    """Return a draft."""
    return {"text": text, "pictures": [dict(picture) for picture in pictures]}


class Drafts:
    """The draft of the open chat. `attached`: the pictures of the message box (attachments.py)."""

    def __init__(self, attached):
        self._box = find("prompt")
        self._attached = attached
        # The chat of the draft: its id, or chats.DRAFT_OF_NEW; None before the store was read.
        self._name = None
        self._kept: dict | None = draft()  # the draft in the store; None: it refused
        self._waits = False
        self.touched = bool(self._box.value)  # the user has typed since the chat was opened

    def wait(self):
        """A new chat is open, and its draft is not read yet. Until `add` shows the draft, nothing is saved, so that the
        first letters do not overwrite it."""
        self._name = None
        self._kept = draft()
        self.touched = False
        self._box.value = ""
        self._attached.show(())

    def show(self, chat, found=None):
        """Show the chat that is open now, with its draft."""
        found = found or draft()
        self._name = chat.id if chat.exists() else chats.DRAFT_OF_NEW
        self._kept = draft(found["text"], found["pictures"])
        self.touched = False
        self._box.value = found["text"]
        self._attached.show(found["pictures"])

    def add(self, chat, found=None):
        """Like `show`, but keep what is in the box: it goes after the draft."""
        found = found or draft()
        text, pictures = found["text"], found["pictures"]
        written, attached = self._box.value, self._attached.pictures
        self.show(chat, found)
        there = [picture["id"] for picture in pictures]
        more = [picture for picture in attached if picture["id"] not in there]
        if more:
            self._attached.show(pictures + more)
        if written and written != text:
            self._box.value = text + "\n" + written if text else written
        if more or (written and written != text):
            self.written()

    def follow(self, chat):
        """The new chat is stored from now on: its draft goes with it."""
        before, self._name = self._name, chat.id
        self._kept = None
        self.leave()
        if before is not None:
            asyncio.create_task(self._keep(before, draft()))

    def shown(self):
        """Return what is in the box."""
        return draft(self._box.value, self._attached.pictures)

    def put_back(self, unsent):
        """Put this into the box of the chat that is open now."""
        self._box.value = unsent["text"]
        self._attached.show(unsent["pictures"])
        self.written()

    def written(self):
        """The user changed it."""
        self.touched = True
        if not self._waits and self._name is not None:
            self._waits = True
            asyncio.create_task(self._keep_soon())

    def sent(self, chat):
        """It becomes a message of this chat. Returns the id of the chat that the draft belonged to. The store
        keeps the draft until it has the message, because the page may close in between."""
        self.leave()
        before, self._name = self._name, chat.id
        self._box.value = ""
        self._attached.show(())
        self._kept = draft()
        return before

    async def _keep_soon(self):
        await sleep_ms(PAUSE_MS)
        self._waits = False
        self.leave()

    def leave(self):
        """Start to save what is in the box; the box may change at once."""
        unsent = self.unsent()
        if unsent is not None:
            self._kept = unsent[1]
            asyncio.create_task(self._keep(*unsent))

    async def _keep(self, name, unsent):
        try:
            await chats.save_draft(name, unsent)
        except chats.NotKept:
            if name == self._name:
                self._kept = None  # retried at the next letter

    def unsent(self):
        """Return (chat, draft) if the store does not have it, else None."""
        text = self._box.value
        unsent = draft(text if text.strip() else "", self._attached.pictures)
        if self._name is None or unsent == self._kept:
            return None
        return self._name, unsent
