"""After a page that ended in the middle of something: what happened, and the smaller setting to go on with. Nothing is
loaded before the person says so, so a page that breaks down does not do it again and again."""

from app import storage
from app.loading import problem

CONTEXTS = (4096, 2048, 1024, 512, 256, 128)  # tokens; the next smaller one is offered
DEFAULT, DEFAULT_ON_IOS = 4096, 512  # the engine's own choices
PROVEN = "proven-groups"  # of `calibrated` messages
MAX_PROVEN = 32

_DOING = {
    "load": "loading",
    "generate": "answering",
    "calibrate": "being tried with a faster setting",
}


class Crash:
    """`smaller`: {"context", "group"} to go on with, either None; `model`: the id of what was in use."""

    def __init__(self, message):
        phase = message["phase"]
        context = message.get("context")  # None is undefined in JavaScript, and gone on the way
        self.model = message["model"]
        name = self.model.split(":")[-1].split("/")[-1] or "a model"
        self.title = "The page ended while " + name + " was " + _DOING.get(phase, "in use")
        self.smaller = {"context": None, "group": None}
        self.button = ""
        if phase == "calibrate":
            self.text = "That setting is not tried again. The model goes on with what is known to work on this device."
            self.button = "Load it again"
            return
        self.text = (
            "Browsers end a page that takes too much memory, above all on phones and tablets, and say nothing. "
            "Close other tabs and apps, go on with less, or choose a smaller model."
        )
        context = context or (DEFAULT_ON_IOS if storage.is_ios() else DEFAULT)
        fewer = [n for n in CONTEXTS if n < context]
        words = []
        if fewer:
            self.smaller["context"] = fewer[0]
            words.append(f"a context of {fewer[0]} tokens")
        if phase == "generate" and (message.get("group") or 1) > 1:
            self.smaller["group"] = 1
            words.append("the slowest and safest way to submit")
        if words:
            self.button = "Load with " + " and ".join(words)
            self.text += " The smaller setting is kept; Reset in the settings undoes it."

    def show(self):
        """Tell it above the message box."""
        actions = ((self.button, "load-smaller"),) if self.button else ()
        problem(self.title, self.text, actions + (("Choose another model", "open-models"),))


def keep_proven(message):
    """What the device was found to take, for later loads."""
    kept = proven()
    kept.pop(message["key"], None)
    while len(kept) >= MAX_PROVEN:
        del kept[next(iter(kept))]
    kept[message["key"]] = {"group": message["group"], "passes": message["passes"]}
    try:
        storage.write(PROVEN, kept)
    except storage.StoreFull:
        pass  # the engine's own record has it too


def proven():
    """{key: {"group", "passes"}}"""
    kept = storage.read(PROVEN, {})
    return (
        {key: found for key, found in kept.items() if _fits(found)}
        if isinstance(kept, dict)
        else {}
    )


def _fits(found):
    return (
        isinstance(found, dict)
        and sorted(found) == ["group", "passes"]
        and all(isinstance(number, int) and number >= 1 for number in found.values())
    )
