"""The user's own model folders: picked by a file input, or dropped on the page."""

import asyncio

from pyscript.ffi import to_js

from app.dom import field, numbers

WANTED = (".safetensors", ".json", ".jinja", ".txt", ".model")


class FolderError(Exception):
    """The picked files are not a model folder."""


def from_input(picker):
    """Return (name, File objects) of an <input webkitdirectory>. Raises FolderError."""
    files = [picker.files.item(i) for i in range(picker.files.length)]
    path = files[0].webkitRelativePath if files else ""
    name = path.split("/")[0] if "/" in path else "folder"
    return _checked(name, [f for f in files if f.webkitRelativePath.count("/") <= 1])


def dropped(transfer):
    """Return (entries, files) of a drop event. Must be called in the event handler: the event is emptied
    afterwards."""
    entries = [transfer.items[i].webkitGetAsEntry() for i in range(transfer.items.length)]
    files = [transfer.files.item(i) for i in range(transfer.files.length)]
    return [entry for entry in entries if entry is not None], files


async def from_drop(entries, files):
    """Return (name, File objects) of what `dropped` found: one folder, or the files of one.

    Raises FolderError, and OSError when the browser cannot read them.
    """
    if not entries:
        return _checked("files", files)
    name, inside = "files", entries
    if len(entries) == 1 and entries[0].isDirectory:
        name, inside = entries[0].name, await _children(entries[0])
    files = []
    for entry in inside:  # MicroPython has no await inside a comprehension
        if entry.isFile:
            files.append(await _file(entry))
    return _checked(name, files)


def total(files):
    """Return the bytes of the weights."""
    known = numbers(to_js(files), "name", "size")
    return sum(file["size"] for file in known if file["name"].endswith(".safetensors"))


def _checked(name, files):
    kept = [f for f in files if f.name.endswith(WANTED) and not f.name.startswith(".")]
    names = [f.name for f in kept]
    if "config.json" in names and any(n.endswith(".safetensors") for n in names):
        return name.replace("@", "-").replace("/", "-"), kept
    hint = ""
    if any(f.name.endswith(".gguf") for f in files):
        hint = " A GGUF file has to be converted first: jerboa convert FILE.gguf FOLDER"
    raise FolderError(
        f'"{name}" is not a model folder: one holds config.json, tokenizer.json and .safetensors '
        f"files at its top.{hint}"
    )


async def _called(start):
    """Return the value that a function passes to its first callback; raise OSError if it calls the second."""
    done = asyncio.Event()
    box = []

    def good(value):
        box.append(value)
        done.set()

    def bad(error):
        box.append(OSError(str(field(error, "message", "it could not be read"))))
        done.set()

    start(good, bad)
    await done.wait()
    if isinstance(box[0], OSError):
        raise box[0]
    return box[0]


async def _children(folder):
    reader = folder.createReader()
    found: list[object] = []
    while True:  # readEntries gives at most 100 at a time
        some = list(await _called(lambda good, bad: reader.readEntries(good, bad)))
        if not some:
            return found
        found += some


async def _file(entry):
    return await _called(lambda good, bad: entry.file(good, bad))
