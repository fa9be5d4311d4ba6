"""The pictures of the message that is being written: added, described, removed, and what is wrong with them in words.

A picture is {"id", "name", "type", "width", "height", "nbytes", "alt"}; public/pictures.mjs has its bytes.
"""

import asyncio
import json

from pyscript.js_modules import picture_view, pictures

from app.device import size_text
from app.dom import announce, clear, find, make, show, stamp

MOST = 20  # pictures of one message


class Attachments:
    """`loading` tells whether the model sees pictures. `on_change` is called after each change by the user."""

    def __init__(self, loading, on_change):
        self._loading = loading
        self._on_change = on_change
        self._list = find("attached")
        self._line = find("attach-problem")
        self._list.addEventListener("input", self._described)
        self._refused = ""  # why the last files were not taken, in words
        self.pictures = []
        self.reading = 0  # files that are being read

    # ---- what is attached

    def show(self, found):
        """Show these pictures in place of those that are there."""
        self.pictures = list(found)
        self._refused = ""
        self._draw()

    def add(self, files):
        """Take files that were picked, dropped or pasted."""
        self.reading += len(files)
        asyncio.create_task(self._add(files))

    async def _add(self, files):
        refused, added = [], 0
        for file in files:
            words = "" if len(self.pictures) < MOST else f"A message takes {MOST} pictures."
            if not words:
                found = json.loads(await pictures.read(file))
                words = found["error"]["message"] if "error" in found else self._take(found)
                added += not words
            if words and words not in refused:
                refused.append(words)
            self.reading -= 1
        self._refused = "\n".join(refused)
        self._draw()
        self._on_change()
        if added:
            announce("1 picture added" if added == 1 else f"{added} pictures added")

    def _take(self, found):
        """Add a picture. Returns why it is not added, in words; "" if it is."""
        if found["id"] in [picture["id"] for picture in self.pictures]:
            return f'"{found["name"]}" is in this message already.'
        found["alt"] = ""
        self.pictures.append(found)
        return ""

    def remove(self, button):
        """Remove the picture of this button. The focus goes to the next one, or to the message box."""
        at = place(button)
        del self.pictures[at]
        self._refused = ""
        self._draw()
        self._on_change()
        announce("Picture removed")
        left = self._list.querySelectorAll("[data-do=remove-picture]")
        (left[min(at, left.length - 1)] if left.length else find("prompt")).focus()

    def _described(self, event):
        self.pictures[place(event.target)]["alt"] = event.target.value
        self._on_change()

    def _draw(self):
        clear(self._list)
        for at, picture in enumerate(self.pictures):
            row = stamp("t-attached")
            row.setAttribute("data-at", str(at))
            image, box = row.querySelector("img"), row.querySelector(".alt")
            name = picture["name"]
            image.alt = picture.get("alt") or name
            box.value = picture.get("alt", "")
            box.setAttribute("aria-label", "Describe " + name)
            row.querySelector("button").setAttribute("aria-label", "Remove " + name)
            row.title = name + ", " + facts(picture)
            picture_view.show(image, "", picture["id"])
            self._list.append(row)
        show(self._list, bool(self.pictures))
        self.draw_problem()

    # ---- what is wrong

    def blocked(self):
        """Return why the message cannot be sent with its pictures, in words; "" if it can."""
        if not self.pictures or sees(self._loading) is not False:
            return ""
        model = self._loading.model or {}
        name = model.get("label") or model.get("id") or "This model"
        what = "the picture" if len(self.pictures) == 1 else "the pictures"
        return f"{name} sees no pictures. Choose a model that does, or remove {what}."

    def draw_problem(self):
        """Say what is wrong beside the message box."""
        text = "\n".join([words for words in (self._refused, self.blocked()) if words])
        if self._line.textContent != text:
            self._line.textContent = text
        show(self._line, bool(text))


def place(node):
    """Return the number of the attached picture that this element belongs to."""
    return int(node.closest("li").getAttribute("data-at"))


def sees(loading):
    """Tell whether the model sees pictures; None while no model is ready."""
    if loading.state != "ready":
        return None
    return "describe" in (loading.info.get("tasks") or [])


def facts(picture):
    """Return the size of a picture, in words; "" if it is unknown."""
    if "width" not in picture:
        return ""
    return f"{picture['width']} \u00d7 {picture['height']}, {size_text(picture['nbytes'])}"


def gallery(chat, found):
    """Return the list of a message's pictures. `chat`: the id of the chat that has them."""
    rows = make("ul", "", "pictures")
    for picture in found:
        row = stamp("t-picture")
        button, image = row.children[0], row.querySelector("img")
        image.alt = picture.get("alt") or picture["name"]
        button.setAttribute("data-id", picture["id"])
        button.setAttribute("aria-label", "Show the picture: " + image.alt)
        if picture.get("width"):
            image.width, image.height = picture["width"], picture["height"]
        picture_view.show(image, chat, picture["id"])
        rows.append(row)
    return rows


def enlarge(chat, picture):
    """Show a picture in the large view."""
    dialog, image = find("picture"), find("picture-large")
    alt = picture.get("alt", "")
    image.alt = alt or picture["name"]
    find("picture-title").textContent = picture["name"]
    find("picture-facts").textContent = " \u00b7 ".join([t for t in (alt, facts(picture)) if t])
    picture_view.reveal(image, chat, picture["id"])
    dialog.onclose = lambda event: picture_view.conceal(image)
    dialog.showModal()
