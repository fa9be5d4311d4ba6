"""The message box: writing and sending. drafts.py saves what was not sent."""

from app import address
from app.dom import find, is_enter

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
        begun = box.value.strip()
        find("send").disabled = not begun or bool(page.gpu.title)
        if begun and page.drafts.touched:
            page.choice.load_at_hand()

    def typed(self, event=None):
        """The user changed the text."""
        self._page.drafts.written()
        self._draw()

    def key(self, event):
        """Send on Enter."""
        if is_enter(event):
            self.send(event)

    def send(self, event=None):
        """Send the text in the box, or ask for a model first."""
        if event is not None:
            event.preventDefault()
        page = self._page
        text = self._box.value.strip()
        if not text or page.conversation.running or page.gpu.title:
            return
        if page.loading.state == "none":
            page.choice.open()
            return
        page.conversation.send(text, page.drafts.sent(page.conversation.chat))
        address.show(page.conversation.chat.id, False)

    def starter(self, button):
        """Send one of the examples. Text in the box stays there as the draft of the new chat."""
        if self._page.conversation.running:
            return
        written = self._box.value
        self._box.value = button.textContent
        self.send()
        if written:
            self._box.value = written
            self._draw()
            self._page.drafts.written()
