"""The list of chats, which is a drawer on narrow screens."""

from app import chats
from app.dom import clear, find, show, stamp


class Sidebar:
    """Shows the list of chats.py."""

    def __init__(self):
        self._list = find("chats")
        self._panel = find("sidebar")
        self._shown = []  # the id of the open chat, then (id, title) of each row

    def refresh(self, current):
        """Redraw the list if it has changed. `current`: the id of the open chat. The focus stays on its row, or moves
        to the row that took its place."""
        listed = chats.listed()
        shown = [current] + [(chat["id"], chat["title"]) for chat in listed]
        if shown == self._shown:
            return
        focused = self._focused()
        self._shown = shown
        clear(self._list)
        for chat in listed:
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
        if focused:
            self._focus(*focused)

    def _focused(self):
        """Return (class of the focused button, number of its row, id of the row's chat), None without focus."""
        button = self._list.querySelector(":focus")
        if button is None:
            return None
        name = button.parentElement.getAttribute("data-id")
        return button.className, [row[0] for row in self._shown[1:]].index(name), name

    def _focus(self, kind, number, name):
        names = [row[0] for row in self._shown[1:]]
        if name in names:
            number = names.index(name)
        elif names:
            number = min(number, len(names) - 1)
        else:
            self._panel.querySelector(".new").focus()
            return
        self._list.children[number].querySelector("." + kind).focus()

    def open(self):
        """Open the drawer; only matters on narrow screens."""
        self._panel.classList.add("open")
        show(find("scrim"))
        find("open-sidebar").setAttribute("aria-expanded", "true")
        self._panel.querySelector(".new").focus()

    def close(self):
        """Close the drawer; returns whether it was open."""
        if not self._panel.classList.contains("open"):
            return False
        self._panel.classList.remove("open")
        show(find("scrim"), False)
        opener = find("open-sidebar")
        opener.setAttribute("aria-expanded", "false")
        opener.focus()
        return True
