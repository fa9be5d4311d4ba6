"""What stands in the message box and was not sent: it belongs to its chat, and is kept while it is written."""

import asyncio

from app import address, chats
from app.dom import find

PAUSE_MS = 250  # between two times that it is kept


class Drafts:
    """Of one chat after another. `on_change` is called when the list of chats may look different."""

    def __init__(self, on_change):
        self._box = find("prompt")
        self._on_change = on_change
        self._chat = None
        self._kept = ""  # what the store has
        self._waits = False
        self.touched = bool(self._box.value)  # by the person, since the chat was opened

    def show(self, chat, text):
        """The chat that is open now, and what was not sent in it."""
        self._chat = chat
        self._kept = text
        self.touched = False
        self._box.value = text

    def begin(self, chat, text):
        """The same at the start: what the person has written by now goes on standing there, behind the draft."""
        written = self._box.value
        self.show(chat, text)
        if written and written != text:
            self._box.value = text + "\n" + written if text else written
            self.written()

    def written(self):
        """The person changed it."""
        self.touched = True
        if self._chat is not None and not len(self._chat) and self._box.value.strip():
            address.show(self._chat.id, False)
        if not self._waits:
            self._waits = True
            asyncio.create_task(self._keep_soon())

    def sent(self):
        """It has become a message; the store knows."""
        self._box.value = ""
        self._kept = ""

    async def _keep_soon(self):
        await asyncio.sleep_ms(PAUSE_MS)
        self._waits = False
        await self.keep()

    async def keep(self):
        """Have the store in step with the box."""
        unsent = self.unsent()
        if unsent is None:
            return
        before, self._kept = self._kept, unsent[1]
        try:
            await chats.save_draft(*unsent)
        except chats.NotKept:
            self._kept = before  # it is tried again with the next letter
            return
        if not before or not unsent[1]:
            self._on_change()

    def unsent(self):
        """(id of the chat, text) that the store does not have, None when it has it."""
        text = self._box.value
        text = text if text.strip() else ""
        if self._chat is None or text == self._kept:
            return None
        return self._chat.id, text
