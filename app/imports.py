"""Importing chats from files that a user picks or drops."""

from app import chats
from app.hints import hint, withdraw

NAME = "imported"


def are_chats(entries, files):
    """Tell whether the dropped items (folders.dropped) are files to import rather than a model."""
    if [entry for entry in entries if entry.isDirectory] or not files:
        return False
    return not [file for file in files if not file.name.lower().endswith(".json")]


async def take(files):
    """Import the files, and report what was imported. Returns (the changes, which were announced to other tabs; the id
    of the chat to open, which is the first one of a single file, else None; the chats.NotKept of each file that
    failed). If the store itself refuses, the remaining files are not tried."""
    withdraw(NAME)
    came = {"chats": 0, "messages": 0, "there": 0}
    first = None
    changes, refused = [], []
    for file in files:
        try:
            told = await chats.take_file(file)
        except chats.NotKept as error:
            refused.append(error)
            if error.is_file:
                continue
            break
        changes += told["changes"]
        for key in came:
            came[key] += told[key]
        first = told["first"] if len(files) == 1 else None
    if came["messages"] or came["there"]:
        hint(NAME, title_of(came), text_of(came), (("OK", "import-seen", "plain"),))
    return changes, first, refused


def title_of(came):
    """Return what was imported, in a few words."""
    return (
        "Nothing new in that file"
        if not came["chats"]
        else count(came["chats"], "chat") + " imported"
    )


def text_of(came):
    """Return what was imported, in full."""
    text = count(came["messages"], "message") + (
        " was added." if came["messages"] == 1 else " were added."
    )
    if came["there"]:
        were = "was" if came["there"] == 1 else "were"
        text += f" {came['there']:,} of the file's messages {were} here already."
    return text


def count(number, what):
    """Return a number with its noun."""
    return f"{number:,} {what}" + ("" if number == 1 else "s")
