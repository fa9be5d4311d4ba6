"""What stands in the message box and was not sent: it belongs to its chat, and is kept while it is written."""

import asyncio

from app import chats
from app.clock import sleep_ms
from app.dom import find

PAUSE_MS = 250  # between two times that it is kept


class Drafts:
    """Of one chat after another."""

    def __init__(self):
        self._box = find("prompt")
        self._name = None  # whose draft it is: a chat's id, chats.DRAFT_OF_NEW; None: the store was not asked yet
        self._kept: str | None = ""  # what the store has; None: it refused
        self._waits = False
        self.touched = bool(self._box.value)  # by the user, since the chat was opened

    def wait(self):
        """A new chat is open, and its draft is still to be read: `add` brings it. Until then nothing is kept, so that
        the first letters do not take the place of the draft."""
        self._name = None
        self._kept = ""
        self.touched = False
        self._box.value = ""

    def show(self, chat, text):
        """The chat that is open now, and what was not sent in it."""
        self._name = chat.id if len(chat) else chats.DRAFT_OF_NEW
        self._kept = text
        self.touched = False
        self._box.value = text

    def add(self, chat, text):
        """The same, where what stands in the box belongs to this chat, too: it goes behind the draft."""
        written = self._box.value
        self.show(chat, text)
        if written and written != text:
            self._box.value = text + "\n" + written if text else written
            self.written()

    def written(self):
        """The user changed it."""
        self.touched = True
        if not self._waits and self._name is not None:
            self._waits = True
            asyncio.create_task(self._keep_soon())

    def sent(self, chat):
        """It becomes a message of this chat; whose draft it was. The draft has every letter until the message is kept,
        which forgets it: the page may go in between."""
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
        """Have the store in step with the box, which may change at once."""
        unsent = self.unsent()
        if unsent is not None:
            self._kept = unsent[1]
            asyncio.create_task(self._keep(*unsent))

    async def _keep(self, name, text):
        try:
            await chats.save_draft(name, text)
        except chats.NotKept:
            if name == self._name:
                self._kept = None  # it is tried again with the next letter

    def unsent(self):
        """(whose it is, text) that the store does not have, None when it has it."""
        text = self._box.value
        text = text if text.strip() else ""
        if self._name is None or text == self._kept:
            return None
        return self._name, text
