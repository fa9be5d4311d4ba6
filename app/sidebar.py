"""The list of chats, and the drawer that it is on narrow screens."""

from app import chats
from app.dom import clear, find, show, stamp


class Sidebar:
    """Shows what chats.py keeps."""

    def __init__(self):
        self._list = find("chats")
        self._panel = find("sidebar")

    def refresh(self, current):
        """Draw the list anew, `current` being the id of the open chat."""
        clear(self._list)
        for chat in chats.listed():
            row = stamp("t-chat")
            row.setAttribute("data-id", chat["id"])
            name, bin_button = row.children[0], row.children[1]
            name.textContent = chat["title"]
            name.title = chat["title"]
            bin_button.setAttribute("aria-label", "Delete chat: " + chat["title"])
            if chat["id"] == current:
                row.className = "current"
                name.setAttribute("aria-current", "true")
            self._list.append(row)

    def open(self):
        """Only matters on narrow screens."""
        self._panel.classList.add("open")
        show(find("scrim"))
        find("open-sidebar").setAttribute("aria-expanded", "true")
        self._panel.querySelector(".new").focus()

    def close(self):
        """True when it was open."""
        if not self._panel.classList.contains("open"):
            return False
        self._panel.classList.remove("open")
        show(find("scrim"), False)
        opener = find("open-sidebar")
        opener.setAttribute("aria-expanded", "false")
        opener.focus()
        return True
