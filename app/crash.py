"""After a page that ended in the middle of something, or memory that ran out: what happened, and the smaller setting
to go on with. Each offer is smaller than the one before, and after the smallest there is none. Nothing is loaded before
the user says so, so a page that breaks down does not do it again and again."""

from app import storage
from app.loading import problem

CONTEXTS = (4096, 2048, 1024, 512, 256, 128)  # tokens; the next smaller one is offered
DEFAULT, DEFAULT_ON_IOS = 4096, 512  # the engine's own, from py_engine/host/profile.py
PROVEN = "proven-groups"  # of `calibrated` messages
MAX_PROVEN = 32
COMMIT = 40  # letters of a commit's name, which a model that was loaded unasked has behind its id

_DOING = {
    "load": "loading",
    "generate": "answering",
    "calibrate": "being tried with a faster setting",
}


class Smaller:
    """A smaller setting than `context` (tokens, None: the engine's own choice) and a `group` above 1, each None where
    there is no smaller one. `button`: the words of the offer, "" when there is nothing left."""

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
        """As buttons of a notice."""
        offer = ((self.button, "load-smaller"),) if self.button else ()
        return offer + (("Choose another model", "open-models"),)


class Crash(Smaller):
    """What the worker said of an earlier run."""

    def __init__(self, message):
        phase = message["phase"]
        # None is undefined in JavaScript, and gone on the way.
        group = message.get("group") if phase == "generate" else None
        name, _, commit = message["model"].partition("@")
        model = name if len(commit) == COMMIT else message["model"]
        super().__init__(model, message.get("context"), group)
        name = self.model.split(":")[-1].split("/")[-1] or "a model"
        self.title = "The page ended while " + name + " was " + _DOING.get(phase, "in use")
        if phase == "calibrate":
            self.context = self.group = None
            self.text = "That setting is not tried again. The model goes on with what is known to work on this device."
            self.button = "Load it again"
            return
        self.text = "Browsers end a page that takes too much memory, above all on phones and tablets, and say nothing. "
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
        """Tell it above the message box."""
        problem(self.title, self.text, self.actions())


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
