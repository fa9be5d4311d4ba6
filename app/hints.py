"""Quiet notices above the message box: a newer version, an advice to install. One at a time; the person may dismiss
each, and nothing waits for them."""

from app.dom import button, clear, find, make, show

_shown = ""  # which


def hint(name, title, text, actions, steps=(), focus=False):
    """Show it, in place of another. `actions`: buttons (text, action); `steps`: an ordered list under the text;
    `focus`: go to the first button, when something waits for the answer."""
    global _shown
    _shown = name
    find("hint-title").textContent = title
    find("hint-text").textContent = text
    places = find("hint-steps")
    clear(places)
    for step in steps:
        places.append(make("li", step))
    show(places, bool(steps))
    row = find("hint-actions")
    clear(row)
    for number, (words, action) in enumerate(actions):
        row.append(button(words, action, "plain" if number or len(actions) == 1 else "primary"))
    show(find("hint"))
    if focus:
        row.children[0].focus()


def withdraw(name):
    """Take it away, if it is this one that is shown."""
    global _shown
    if _shown == name:
        _shown = ""
        show(find("hint"), False)
