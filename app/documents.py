"""The documents of the open chat: added, searched, removed. The worker keeps their passages in a namespace for each
chat (py_engine/memory), in this browser's storage.

An entry is {"name", "state": "waits", "adds", "kept" or "failed", "line": how far it is or what is wrong, ...}.
"""

import asyncio
import hashlib

from app import storage
from app.device import size_text
from app.dom import announce, clear, find, numbers, show, stamp
from app.embedder import NAME as EMBEDDER

USED = "documents"  # key of the list of chats that have documents
MAX_BYTES = 64 << 20  # of a document, as in py_engine/memory/documents.py
SHARE = 0.25  # of the context, for passages
LEAST_TOKENS, MOST_TOKENS = 384, 2048
LONGEST = 59  # characters of a chat's id in the name of its namespace


class Documents:
    """`page` has the client, the embedder and the conversation. `on_begun(chat)`: an empty chat has documents now, and
    is to be kept."""

    def __init__(self, page, on_begun):
        self._page = page
        self._on_begun = on_begun
        self._list = find("documents")
        self._line = find("embedder-line")
        self._entries = {}  # id of a chat -> its entries
        self._names = []  # of the documents that are drawn
        self._busy = False
        self._count = 0

    @property
    def _chat(self):
        return self._page.conversation.chat

    def _shown(self):
        return self._entries.setdefault(self._chat.id, [])

    # ---- the list

    def refresh(self):
        """Draw the documents of the open chat; read them from the store when it is shown for the first time."""
        name = self._chat.id
        if name not in self._entries and name in used():
            self._entries[name] = []
            asyncio.create_task(self._read(name))
        self.draw()

    async def _read(self, name):
        told = await self._page.client.answer("memory_list", namespace=namespace(name))
        known = [entry["name"] for entry in self._entries[name]]
        for source in told.get("value") or []:
            if source["source"] not in known:
                self._entries[name].append(kept(source["source"], source["pieces"]))
        self.draw()

    def draw(self):
        """Draw the list and the line about the embedder. The rows stay while their names do, so that the focus
        stays."""
        entries, line = self._shown(), self._page.embedder.line
        names = [entry["name"] for entry in entries]
        if names != self._names:
            self._names = names
            clear(self._list)
            for at, name in enumerate(names):
                row = stamp("t-document")
                row.setAttribute("data-at", str(at))
                row.querySelector(".name").textContent = name
                row.querySelector("button").setAttribute("aria-label", "Remove " + name)
                row.querySelector("progress").setAttribute("aria-label", "Reading " + name)
                self._list.append(row)
        for at, entry in enumerate(entries):
            draw_entry(self._list.children[at], entry)
        show(self._list, bool(entries))
        self._line.children[0].textContent = line
        show(self._line, bool(entries and line))

    # ---- adding

    def add(self, files):
        """Add files that were picked or dropped to the open chat."""
        chat = self._chat
        if not chat.exists():
            self._on_begun(chat, files[0].name)
        entries = self._entries.setdefault(chat.id, [])
        for file in files:
            size = numbers(file, "size")["size"]
            entry = {"name": file.name, "state": "waits", "line": "waits", "file": file}
            if size > MAX_BYTES:
                entry["state"] = "failed"
                entry["line"] = f"has {size_text(size)}: a document may have {size_text(MAX_BYTES)}"
            entries = [other for other in entries if other["name"] != file.name] + [entry]
        self._entries[chat.id] = entries
        use(chat.id)
        self.draw()
        asyncio.create_task(self._work())

    async def _work(self):
        """Add the files that wait, one after another."""
        if self._busy:
            return
        self._busy = True
        while True:
            waiting = [
                (name, entry)
                for name, entries in self._entries.items()
                for entry in entries
                if entry["state"] == "waits"
            ]
            if not waiting:
                break
            if not await self._page.embedder.ready():
                for _, entry in waiting:
                    entry["state"], entry["line"] = "failed", "no embedder was chosen"
                break
            await self._add(*waiting[0])
        self._busy = False
        self.draw()

    async def _add(self, name, entry):
        client = self._page.client
        self._count += 1
        folder = f"documents-{self._count}"
        file = entry.pop("file")
        entry["state"], entry["line"] = "adds", "is read"
        self.draw()
        client.ask("files", name=folder, files=[file], paths=[file.name])

        def heard(message):
            row = message["row"]
            entry["done"], entry["total"] = row["done"], row["total"]
            entry["line"] = progress_text(row)
            self.draw()

        told = await client.answer(
            "memory_add",
            heard,
            lambda request: entry.update({"request": request}),
            namespace=namespace(name),
            files=folder,
            model=EMBEDDER,
        )
        client.ask("files", name=folder, files=[], paths=[])
        entry.pop("request", None)
        self._settle(entry, told)
        if entry.get("removed") and entry["state"] == "kept":  # it was whole before it was stopped
            await self._forget(name, entry)
        self.draw()

    def _settle(self, entry, told):
        """The worker has read a document, or refused it."""
        value = told.get("value") or {}
        if value.get("added"):
            found = value["added"][0]
            entry.update(kept(entry["name"], found["pieces"], found["notes"]))
            announce(entry["name"] + " was added")
            return
        failed = value.get("failed")
        entry["state"] = "failed"
        entry["line"] = failed[0]["message"] if failed else told.get("error", "it was not added")
        if not entry.get("removed"):
            announce(entry["name"] + ": " + entry["line"])

    # ---- removing

    def remove(self, button):
        """Remove the document of this button, or stop adding it. The focus goes to the next one, or to the message
        box."""
        entries, at = self._shown(), int(button.closest("li").getAttribute("data-at"))
        entry = entries.pop(at)
        entry["removed"] = True
        if entry.get("request"):
            self._page.client.interrupt(entry["request"])
        elif entry["state"] == "kept":
            asyncio.create_task(self._forget(self._chat.id, entry))
        entry["state"] = "gone" if entry["state"] == "waits" else entry["state"]
        self.draw()
        announce("Document removed")
        left = self._list.querySelectorAll("[data-do=remove-document]")
        (left[min(at, left.length - 1)] if left.length else find("prompt")).focus()

    async def _forget(self, name, entry):
        await self._page.client.answer(
            "memory_forget", namespace=namespace(name), source=entry["name"]
        )

    def forget_chat(self, name):
        """A chat (None: every one) is deleted: delete its documents."""
        for other in used():
            if name in (None, other):
                self._entries.pop(other, None)
                self._page.client.ask("memory_forget", namespace=namespace(other), all=True)
                use(other, False)

    # ---- recalling

    def has(self, chat):
        """Tell whether a chat has documents that can be searched, as far as it is known."""
        if chat.id not in self._entries:
            return chat.id in used()
        return any([entry["state"] == "kept" for entry in self._entries[chat.id]])

    async def recall(self, chat, question):
        """Return {"context", "items"} of what the documents say about a question. Raises NotSearched."""
        if not await self._page.embedder.ready():
            raise NotSearched(
                "The documents of this chat were not searched: no embedder is loaded."
            )
        context = (self._page.loading.info.get("context") or {}).get("max") or MOST_TOKENS
        told = await self._page.client.answer(
            "memory_recall",
            namespace=namespace(chat.id),
            query=question,
            token_budget=int(min(MOST_TOKENS, max(LEAST_TOKENS, SHARE * context))),
            chat="",
            model=EMBEDDER,
        )
        if told["status"] == "error":
            raise NotSearched("The documents of this chat were not searched: " + told["error"])
        return told["value"]


class NotSearched(Exception):
    """The documents could not be searched; the text says why."""


def namespace(name):
    """Return the name of the namespace with the documents of a chat."""
    if len(name) > LONGEST or not all("-" <= c <= "z" for c in name):
        name = "".join(f"{byte:02x}" for byte in hashlib.sha256(name.encode()).digest())[:48]
    return "chat-" + name


def used():
    """Return the ids of the chats that have documents."""
    found = storage.read(USED, [])
    return [name for name in found if isinstance(name, str)] if isinstance(found, list) else []


def use(name, has=True):
    """Note whether a chat has documents."""
    found = [other for other in used() if other != name] + ([name] if has else [])
    try:
        storage.write(USED, found)
    except storage.StoreFull:
        pass  # then they are not shown after a reload


def draw_entry(row, entry):
    """Draw a document in its row."""
    row.className = "document " + entry["state"]
    row.querySelector("small").textContent = entry["line"]
    bar = row.querySelector("progress")
    reads = entry["state"] == "adds"
    show(bar, reads)
    if reads and entry.get("total"):
        bar.max, bar.value = entry["total"], entry["done"]


def kept(name, pieces, notes=()):
    """Return the entry of a document that is stored."""
    count = "1 passage" if pieces == 1 else f"{pieces:,} passages"
    return {"name": name, "state": "kept", "line": ". ".join([count] + list(notes))}


def progress_text(row):
    """Return how far a document is read, in words."""
    if row["unit"] == "bytes":
        return f"{size_text(row['done'])} of {size_text(row['total'])}"
    return f"{row['done']:,} of {row['total']:,} {row['unit']}"
