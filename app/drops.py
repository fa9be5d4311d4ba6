"""Files that are dropped on the page or pasted into the message: pictures for it, a model's folder, or chats."""

import asyncio

from app.dom import find, show
from app.loading import problem

WEIGHTS = (".safetensors", ".gguf")


class Drops:
    """`page` has the parts that take the files."""

    def __init__(self, page):
        self._page = page

    def drag(self, event):
        """Files are dragged over the page."""
        if brings_files(event.dataTransfer):
            event.preventDefault()
            show(find("drop"), event.type == "dragover")

    def drop(self, event):
        """Files were dropped."""
        if not brings_files(event.dataTransfer):
            return
        from app import folders, imports  # imported here, since few visits need them

        event.preventDefault()
        show(find("drop"), False)
        entries, files = folders.dropped(event.dataTransfer)
        if imports.are_chats(entries, files):
            self._page.library.take_files(files)
        elif is_model(entries, files):
            asyncio.create_task(self._read_folder(folders, entries, files))
        else:
            self._page.composer.attach(files)

    async def _read_folder(self, folders, entries, files):
        try:
            found = await folders.from_drop(entries, files)
        except (folders.FolderError, OSError) as error:
            problem("Not a model folder", str(error), (("Open a folder", "pick-folder"),))
            return
        self._page.choice.take_folder(lambda folders: found)

    def paste(self, event):
        """Something was pasted into the message box: pictures are taken, unless a text came with them (as from a text
        processor)."""
        data = event.clipboardData
        if not data or not brings_files(data) or "text/plain" in list(data.types):
            return
        event.preventDefault()
        self._page.composer.attach([data.files.item(i) for i in range(data.files.length)])


def is_model(entries, files):
    """Tell whether the dropped items are a folder, or the files of a model."""
    folder = [entry for entry in entries if entry.isDirectory]
    return bool(folder or [file for file in files if file.name.lower().endswith(WEIGHTS)])


def brings_files(data):
    """Tell whether a drag or a paste carries files rather than a text."""
    return "Files" in list(data.types)
