"""The text in the message box that was not sent. It belongs to its chat, and is saved while it is written."""

import asyncio

from app import chats
from app.clock import sleep_ms
from app.dom import find

PAUSE_MS = 250  # between two saves


class Drafts:
    """The draft of the open chat."""

    def __init__(self):
        self._box = find("prompt")
        # The chat of the draft: its id, or chats.DRAFT_OF_NEW; None before the store was read.
        self._name = None
        self._kept: str | None = ""  # the text in the store; None: it refused
        self._waits = False
        self.touched = bool(self._box.value)  # the user has typed since the chat was opened

    def wait(self):
        """A new chat is open, and its draft is not read yet. Until `add` shows the draft, nothing is saved, so that the
        first letters do not overwrite it."""
        self._name = None
        self._kept = ""
        self.touched = False
        self._box.value = ""

    def show(self, chat, text):
        """Show the chat that is open now, with its draft."""
        self._name = chat.id if len(chat) else chats.DRAFT_OF_NEW
        self._kept = text
        self.touched = False
        self._box.value = text

    def add(self, chat, text):
        """Like `show`, but keep the text that is in the box: it goes after the draft."""
        written = self._box.value
        self.show(chat, text)
        if written and written != text:
            self._box.value = text + "\n" + written if text else written
            self.written()

    def written(self):
        """The user changed the text."""
        self.touched = True
        if not self._waits and self._name is not None:
            self._waits = True
            asyncio.create_task(self._keep_soon())

    def sent(self, chat):
        """The text becomes a message of this chat. Returns the id of the chat that the draft belonged to. The store
        keeps the draft until it has the message, because the page may close in between."""
        self.leave()
        before, self._name = self._name, chat.id
        self._box.value = ""
        self._kept = ""
        return before

    async def _keep_soon(self):
        await sleep_ms(PAUSE_MS)
        self._waits = False
        self.leave()

    def leave(self):
        """Start to save the text in the box; the box may change at once."""
        unsent = self.unsent()
        if unsent is not None:
            self._kept = unsent[1]
            asyncio.create_task(self._keep(*unsent))

    async def _keep(self, name, text):
        try:
            await chats.save_draft(name, text)
        except chats.NotKept:
            if name == self._name:
                self._kept = None  # retried at the next letter

    def unsent(self):
        """Return (chat, text) if the store does not have it, else None."""
        text = self._box.value
        text = text if text.strip() else ""
        if self._name is None or text == self._kept:
            return None
        return self._name, text
