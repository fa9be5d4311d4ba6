"""The user's own model folders: picked by a file input, or dropped on the page.

Files are {path in the folder: File}, since a File itself has only its name.
"""

import asyncio

from pyscript.ffi import to_js

from app.dom import field, numbers

WANTED = (".safetensors", ".json", ".jinja", ".txt", ".model")
GGUF = ".gguf"
MAX_DEPTH = 3  # folders between the picked folder and a file
MAX_FILES = 1000  # in folders that were dropped; a model has far fewer


class FolderError(Exception):
    """The picked files are not a model folder."""


def from_input(picker):
    """Return (name, files) of an <input webkitdirectory>. Raises FolderError."""
    name, found = "folder", {}
    for i in range(picker.files.length):
        file = picker.files.item(i)
        folder, _, path = file.webkitRelativePath.partition("/")
        name = folder or name
        if path.count("/") <= MAX_DEPTH:
            found[path or file.name] = file
    return _checked(name, found)


def dropped(transfer):
    """Return (entries, files) of a drop event. Must be called in the event handler: the event is emptied
    afterwards."""
    entries = [transfer.items[i].webkitGetAsEntry() for i in range(transfer.items.length)]
    files = [transfer.files.item(i) for i in range(transfer.files.length)]
    return [entry for entry in entries if entry is not None], files


async def from_drop(entries, files):
    """Return (name, files) of what `dropped` found: one folder, or the content of one.

    Raises FolderError, and OSError when the browser cannot read them.
    """
    if not entries:
        return _checked("files", {file.name: file for file in files})
    name, inside = "files", entries
    if len(entries) == 1 and entries[0].isDirectory:
        name, inside = entries[0].name, await _children(entries[0])
    return _checked(name, await _files_below(inside))


async def _files_below(entries):
    """Return the files among `entries` and in the folders among them, those nearest to the top first."""
    found: dict[str, object] = {}
    level = [(entry.name, entry) for entry in entries]
    for depth in range(MAX_DEPTH + 1):
        below = []
        for path, entry in level:
            if len(found) == MAX_FILES or _is_hidden(path):
                continue
            if entry.isFile and path.endswith(WANTED + (GGUF,)):
                found[path] = await _file(entry)
            elif entry.isDirectory and depth < MAX_DEPTH:
                below += [(f"{path}/{child.name}", child) for child in await _children(entry)]
        level = below
    return found


def total(files):
    """Return the size in bytes of all weights at the folder's top."""
    weights = [file for path, file in files.items() if _is_weights(path)]
    return sum(file["size"] for file in numbers(to_js(weights), "size"))


def _checked(name, files):
    kept = {
        path: file for path, file in files.items() if path.endswith(WANTED) and not _is_hidden(path)
    }
    if "config.json" in kept and any(_is_weights(path) for path in kept):
        return name.replace("@", "-").replace("/", "-"), kept
    hint = ""
    if any(path.endswith(GGUF) and "/" not in path for path in files):
        hint = " A GGUF file has to be converted first: jerboa convert FILE.gguf FOLDER"
    raise FolderError(
        f'"{name}" is not a model folder: one holds config.json, tokenizer.json and .safetensors '
        f"files at its top.{hint}"
    )


def _is_hidden(path):
    return any(part.startswith(".") for part in path.split("/"))


def _is_weights(path):
    return path.endswith(".safetensors") and "/" not in path


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
