"""The message box: writing, attaching and sending. drafts.py saves what was not sent."""

from app import address
from app.dom import announce, find, is_enter, make

DOCUMENTS = ".pdf,.txt,.md,.html,.htm,text/*,application/pdf,application/json"
PICTURES = "image/png,image/jpeg,image/webp,image/gif,image/bmp,image/*"

MOST_ROWS = 10  # rows of the box; a longer text scrolls


class Composer:
    """The box and its button."""

    def __init__(self, page):
        self._page = page
        self._box = find("prompt")

    def focus(self):
        """Put the cursor into the box."""
        self._box.focus()

    def refresh(self):
        """Redraw the box."""
        continues = self._page.conversation.continues()
        self._box.placeholder = "Begin a text" if continues else "Write a message"
        self._draw()

    def _draw(self):
        """Set the height, and enable or disable the button. The first letters may load the last visit's model."""
        page, box = self._page, self._box
        rows = min(MOST_ROWS, box.value.count("\n") + 1)
        if box.rows != rows:
            box.rows = rows
        begun = box.value.strip() or page.attached.pictures
        waits = page.attached.reading or page.gpu.title
        find("send").disabled = not begun or bool(waits)
        page.attached.draw_problem()
        if begun and page.drafts.touched:
            page.choice.load_at_hand()

    def typed(self, event=None):
        """The user changed the text."""
        self._page.drafts.written()
        self._draw()

    def attach(self, files):
        """Take files that were picked, dropped or pasted: pictures for the message, documents for the chat."""
        pictures = [file for file in files if is_picture(file)]
        others = [file for file in files if not is_picture(file)]
        if pictures:
            self._page.attached.add(pictures)
        if others:
            self._page.documents.add(others)
        self._draw()
        self.focus()

    def pick_pictures(self, button):
        """Let the user choose pictures; a phone also offers its camera."""
        self._pick(PICTURES, self._page.attached.add)

    def pick_documents(self, button):
        """Let the user choose documents."""
        self._pick(DOCUMENTS, self._page.documents.add)

    def _pick(self, accept, take):
        def picked(event):
            files = self._input.files
            take([files.item(i) for i in range(files.length)])
            self._draw()
            self.focus()

        find("attach").open = False
        self._input = make("input")
        self._input.type = "file"
        self._input.accept = accept
        self._input.multiple = True
        self._input.addEventListener("change", picked)
        self._input.click()

    def key(self, event):
        """Send on Enter."""
        if is_enter(event):
            self.send(event)

    def send(self, event=None):
        """Send the text in the box, or ask for a model first."""
        if event is not None:
            event.preventDefault()
        page = self._page
        text, pictures = self._box.value.strip(), page.attached.pictures
        if not (text or pictures) or page.conversation.running or page.gpu.title:
            return
        if page.attached.reading:  # the picture is here in a moment
            return
        if page.loading.state == "none":
            page.choice.open()
            return
        blocked = page.attached.blocked()
        if blocked:
            announce(blocked)
            return
        page.conversation.send(text, pictures, page.drafts.sent(page.conversation.chat))
        address.show(page.conversation.chat.id, False)

    def starter(self, button):
        """Send one of the examples. Text in the box stays there as the draft of the new chat."""
        if self._page.conversation.running:
            return
        page = self._page
        written, pictures = self._box.value, page.attached.pictures
        self._box.value = button.textContent
        page.attached.show(())
        self.send()
        if written or pictures:
            self._box.value = written
            page.attached.show(pictures)
            self._draw()
            page.drafts.written()


def is_picture(file):
    """Tell whether a file calls itself a picture."""
    return file.type.startswith("image/")
