"""All chats, and which of them is open: opening, creating, deleting, exporting, importing, and changes by other
tabs."""

import asyncio
import json

from js import document
from pyscript.js_modules import chat_store

from app import address, chats, exports, storage
from app.conversation import refusal
from app.device import size_text
from app.dom import announce, find, make
from app.loading import problem

NOT_HERE = (
    "The address names a chat that this browser does not have: it was deleted, or is kept in another browser or on "
    "another device. This is a new one."
)
SMALLER_PLACE = {
    "local-storage": "The browser refused a database, so chats are kept in a store of a few megabytes. It said: ",
    "memory": "The browser keeps nothing for this page: chats end with it. Download what you want to keep. It said: ",
}
STRANDED = (
    "They stay where an older version of this page kept them, and can be read. The browser refused to move them "
    "to the new store: "
)


class Library:
    """`conversation` shows the open chat, `drafts` its draft, `sidebar` the list. `confirm(text, act)` asks the user;
    `on_change` is called when buttons must be redrawn, `on_deleted` with the id of a chat that the user deleted (None:
    all)."""

    def __init__(self, conversation, drafts, sidebar, confirm, on_change, on_deleted):
        self._conversation = conversation
        self._drafts = drafts
        self._sidebar = sidebar
        self._confirm = confirm
        self._on_change = on_change
        self._on_deleted = on_deleted
        self._opening = None  # the id of the chat that is being opened
        self._looking = False  # the list is being read
        self._look_again = False  # and it has changed meanwhile

    async def meet(self):
        """At the start: read the list, and open the chat of the address."""
        kind, reason = await chats.opened()
        if kind == "memory":
            text = "This browser keeps no data for this page: chats end with it."
            find("no-chats").textContent = text
        if kind != "indexed-db":
            problem("Chats are kept in a smaller place", SMALLER_PLACE[kind] + reason)
        chat_store.listen(self._heard)
        await self.carry_over()
        name = address.chat()
        if name:
            await self._open(name, step=False, begin=True)
        else:
            await self._find_draft()
        await self.look()
        document.body.setAttribute("data-chats", "ready")

    # ---- opening

    def new_chat(self, button=None, step=True):
        """Open an empty chat, with its draft. `step`: "back" leads to the chat that is open now."""
        self._sidebar.close()
        if self._conversation.chat.exists() or self._opening:
            self._opening = None
            self._drafts.leave()
            self._conversation.show(chats.new())
            self._drafts.wait()
            address.show(None, step)
            asyncio.create_task(self._find_draft())
        find("prompt").focus()

    async def _find_draft(self):
        """Read the draft of a new chat."""
        chat = self._conversation.chat
        try:
            draft = await chats.draft_of_new()
        except chats.NotKept:
            draft = None
        if self._conversation.chat is chat:
            self._drafts.add(chat, None if len(chat) else draft)
            self._on_change()

    def open_chat(self, button):
        """Open a chat from the list."""
        name = button.closest("li").getAttribute("data-id")
        self._sidebar.close()
        find("scroll").focus()
        asyncio.create_task(self._open(name))

    async def _open(self, name, step=True, begin=False):
        """Open a chat by its id. `begin`: the page was just opened."""
        self._opening = name
        self._drafts.leave()
        try:
            found = await chats.load(name)
        except chats.NotKept as error:
            if self._opening == name:
                self._opening = None
            problem("The chat could not be read", str(error))
            return
        if self._opening != name:
            return
        self._opening = None
        if found is None:
            address.show(None, False)
            self.new_chat(step=False)
            if begin:
                await self._find_draft()
            problem("That chat is not here", NOT_HERE)
            return
        chat, draft = found
        self._drafts.leave()
        self._conversation.show(chat)
        (self._drafts.add if begin else self._drafts.show)(self._conversation.chat, draft)
        address.show(name, step)
        self._on_change()

    def went(self, event):
        """The address has changed: back, forward, or typed in."""
        name = address.chat()
        if name and name != self._conversation.chat.id:
            asyncio.create_task(self._open(name, step=False))
        elif not name and address.is_bare() and self._conversation.chat.exists():
            self.new_chat(step=False)

    def begin(self, chat, title):
        """Keep a chat that has no message yet, since it has documents."""
        chat.record["title"] = title
        chat.stored = True
        self._drafts.follow(chat)
        address.show(chat.id, True)
        asyncio.create_task(self._begin(chat))

    async def _begin(self, chat):
        try:
            await chats.save(chat)
        except (chats.NotKept, chats.Gone) as error:
            problem("This chat is not kept", str(error))
        self._on_change()

    # ---- deleting

    def delete_chat(self, button):
        """Delete the chat of the row, or the open one."""
        row = button.closest("li")
        name = row.getAttribute("data-id") if row else self._conversation.chat.id
        find("chat-menu").open = False
        head = chats.head(name)
        title = head["title"] if head else self._conversation.chat.title()
        self._ask(f'Delete "{title[:200]}"? This cannot be undone.', name)

    def delete_all(self, button):
        """Delete every chat."""
        self._ask("Delete all chats? This cannot be undone.", None)

    def _ask(self, text, name):
        self._confirm(text, lambda: asyncio.create_task(self._delete(name)))

    async def _delete(self, name):
        """Delete a chat (None: all), and stop an answer that is being written in it."""
        if find("settings").open:
            find("settings").close()
        running = self._conversation.running
        if running and name in (None, running.chat.id):
            self._conversation.stop(keep=False)
        if name in (None, self._conversation.chat.id):
            self._drafts.show(chats.new())
            self.new_chat(step=False)
        try:
            await (chats.delete_all() if name is None else chats.delete(name))
        except chats.NotKept as error:
            problem("Nothing was deleted", str(error))
            return
        self._on_deleted(name)
        announce("All chats were deleted" if name is None else "The chat was deleted")
        self._on_change()

    def lost(self):
        """Another tab has deleted the open chat. Text in the message box stays."""
        unsent = self._drafts.shown()
        self._drafts.show(chats.new())
        self.new_chat(step=False)
        self._drafts.put_back(unsent)
        text = "Another tab deleted the chat that was open here. This is a new one."
        problem("The chat was deleted", text)

    # ---- files

    def export(self, write):
        """Export the open chat with `write`, and close the menu."""
        find("chat-menu").open = False
        asyncio.create_task(self._export(write(self._conversation.chat)))

    def export_all(self, button):
        """Export every chat in one file."""
        asyncio.create_task(self._export(exports.everything(self._conversation.held())))

    async def _export(self, writing):
        try:
            await writing
        except chats.NotKept as error:
            if find("settings").open:
                find("settings").close()
            problem("The chats could not be read", str(error))

    async def tell_size(self):
        """Show in the settings how much the pictures of the chats take."""
        text = "Chats and settings are kept in this browser only."
        try:
            count, nbytes = await chats.pictures_size()
        except chats.NotKept:
            count = 0
        if count:
            what = "1 picture takes " if count == 1 else f"{count:,} pictures take "
            text += f" Their {what}{size_text(nbytes)}."
        find("data-note").textContent = text

    def pick_files(self, button):
        """Let the user choose files to import."""
        self._input = make("input")
        self._input.type = "file"
        self._input.accept = ".json,application/json"
        self._input.multiple = True
        self._input.addEventListener("change", self._picked)
        self._input.click()

    def _picked(self, event):
        files = self._input.files
        self.take_files([files.item(i) for i in range(files.length)])

    def take_files(self, files):
        """Import files."""
        asyncio.create_task(self._take_files(files))

    async def _take_files(self, files):
        """Import files; a single imported chat is opened."""
        from app import imports  # imported here, since few visits need it

        if find("settings").open:
            find("settings").close()
        changes, only, refused = await imports.take(files)
        if refused:
            title = "Nothing was imported" if not changes else "Not every file was imported"
            words = [str(error) if error.is_file else refusal(error) for error in refused]
            problem(title, "\n".join(words))
        for change in changes:
            await self._show(change)
        await self.look()
        if only:
            await self._open(only)

    # ---- changes by other tabs

    async def look(self):
        """Read the list from the store again."""
        if self._looking:
            self._look_again = True
            return
        self._looking = True
        while True:
            self._look_again = False
            try:
                await chats.refresh()
            except chats.NotKept as error:
                problem("The list of chats could not be read", str(error))
            if not self._look_again:
                break
        self._looking = False
        self._on_change()

    def _heard(self, text):
        """Another tab has changed something."""
        asyncio.create_task(self._follow(json.loads(text)))

    async def _follow(self, change):
        await self._show(change)
        await self.look()

    async def _show(self, change):
        try:
            if change["op"] == "wrote":
                what = [change[key] for key in ("chat", "ids", "outdated", "fresh")]
                await self._conversation.wrote(*what)
            else:
                await self._conversation.dropped(change["chat"])
        except chats.NotKept as error:
            problem("What changed elsewhere could not be read", str(error))

    def leave(self):
        """Save unsaved text: the page is about to close."""
        chats.save_last(self._drafts.unsent(), self._conversation.unsaved())

    def back(self, event):
        """The page is shown again. If the browser had frozen it, it has missed changes."""
        if event.persisted:
            asyncio.create_task(self._catch_up())

    async def _catch_up(self):
        try:
            await self._conversation.catch_up()
        except chats.NotKept as error:
            problem("What changed elsewhere could not be read", str(error))
        await self.look()

    def stored(self, event):
        """localStorage has changed: an older version of this page is open in another tab, or chats are stored there.
        The change can be read only now; the other tab may have announced it too early."""
        if event.key and event.key.startswith(storage.PREFIX + "kept."):
            asyncio.create_task(self._catch_up())
        elif not event.key or event.key.startswith(storage.PREFIX + chats.BODY):
            asyncio.create_task(self.carry_over(True))

    async def carry_over(self, draw=False):
        """Move chats that older versions of this page have left."""
        changes, refused = await chats.carry_over()
        if refused:
            problem("Some chats could not be moved", STRANDED + refused)
        for change in changes:
            await self._show(change)
        if changes or refused or draw:
            await self.look()
