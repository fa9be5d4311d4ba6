"""Quiet notices above the message box: a newer version, advice to install. They are shown one at a time, and do not
block anything else."""

from app.dom import button, clear, find, make, show

_waiting: list[tuple] = []  # arguments of hint(); the first one is shown


def hint(name, title, text, actions, steps=(), urgent=False):
    """Show a notice, or queue it. `actions`: buttons (text, action, kind: "primary" or "plain"); `steps`: an ordered
    list under the text; `urgent`: something waits for the answer, so the notice comes first and takes the focus."""
    if name in [other[0] for other in _waiting]:
        return
    _waiting.insert(0 if urgent else len(_waiting), (name, title, text, actions, steps, urgent))
    if _waiting[0][0] == name:
        _draw()


def withdraw(name):
    """Remove a notice; returns whether it was there."""
    global _waiting
    left = [other for other in _waiting if other[0] != name]
    found = len(left) < len(_waiting)
    _waiting = left
    if found:
        _draw()
    return found


def _draw():
    show(find("hint"), bool(_waiting))
    if not _waiting:
        return
    _, title, text, actions, steps, urgent = _waiting[0]
    find("hint-title").textContent = title
    find("hint-text").textContent = text
    places = find("hint-steps")
    clear(places)
    for step in steps:
        places.append(make("li", step))
    show(places, bool(steps))
    row = find("hint-actions")
    clear(row)
    row.append(*[button(*action) for action in actions])
    if urgent:
        row.children[0].focus()
