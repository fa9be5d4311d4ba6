"""After a page that crashed, or memory that ran out: what happened, and an offer to load with a smaller setting. Each
offer is smaller than the one before, and after the smallest there is none. Nothing is loaded until the user agrees,
so a page that crashes does not crash again and again."""

from app import storage
from app.loading import problem

CONTEXTS = (4096, 2048, 1024, 512, 256, 128)  # tokens; the next smaller one is offered
DEFAULT, DEFAULT_ON_IOS = 4096, 512  # the engine's defaults, from py_engine/host/profile.py
PROVEN = "proven-groups"  # key of the results of `calibrated` messages
MAX_PROVEN = 32
# Hex digits of a commit. A stored model that the page loads by itself is reported as ID@COMMIT.
COMMIT = 40

_DOING = {
    "load": "loading",
    "generate": "answering",
    "calibrate": "being tried with a faster setting",
}


class Smaller:
    """The next smaller setting. `context`: tokens (None: the engine's default); `group`: dispatches per command buffer.
    An attribute is None if it cannot get smaller. `button`: the words of the offer, "" when nothing is left."""

    def __init__(self, model, context=None, group=None):
        context = context or (DEFAULT_ON_IOS if storage.is_ios() else DEFAULT)
        self.model = model  # its id
        self.context = next((n for n in CONTEXTS if n < context), None)
        self.group = 1 if (group or 1) > 1 else None
        words = []
        if self.context:
            words.append(f"a context of {self.context} tokens")
        if self.group:
            words.append("the slowest and safest way to submit")
        self.button = "Load with " + " and ".join(words) if words else ""

    def actions(self):
        """Return the buttons of a notice."""
        offer = ((self.button, "load-smaller"),) if self.button else ()
        return offer + (("Choose another model", "open-models"),)


class Crash(Smaller):
    """The crash of an earlier run, from the worker's report."""

    def __init__(self, message):
        phase = message["phase"]
        # JavaScript turns None into undefined, and the field is lost on the way.
        group = message.get("group") if phase == "generate" else None
        name, _, commit = message["model"].partition("@")
        model = name if len(commit) == COMMIT else message["model"]
        super().__init__(model, message.get("context"), group)
        name = self.model.split(":")[-1].split("/")[-1] or "a model"
        self.title = "The page ended while " + name + " was " + _DOING.get(phase, "in use")
        if phase == "calibrate":
            self.context = self.group = None
            self.text = "That setting is not tried again. The model uses the one that is known to work on this device."
            self.button = "Load it again"
            return
        self.text = "Browsers end a page that takes too much memory, mainly on phones and tablets, without an error. "
        if self.button:
            self.text += (
                "Close other tabs and apps, go on with less, or choose a smaller model. "
                "The smaller setting is kept; Reset in the settings undoes it."
            )
        else:
            self.text += (
                "This was the smallest setting already: the model is too large for this device, or for what other "
                "tabs and apps leave of it. Choose a smaller model."
            )

    def show(self):
        """Show the notice above the message box."""
        problem(self.title, self.text, self.actions())


def keep_proven(message):
    """Store a calibration result of this device, for later loads."""
    kept = proven()
    kept.pop(message["key"], None)
    while len(kept) >= MAX_PROVEN:
        del kept[next(iter(kept))]
    kept[message["key"]] = {"group": message["group"], "passes": message["passes"]}
    try:
        storage.write(PROVEN, kept)
    except storage.StoreFull:
        pass  # the engine has its own record of it


def proven():
    """Return {key: {"group", "passes"}}."""
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
