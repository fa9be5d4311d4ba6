"""Loading a model: start, progress in bytes and time, cancel, retry."""

import js

from app.clock import now_ms, since_ms
from app.device import Awake, size_text
from app.dom import announce, button, clear, find, sentence, show

DRAW_MS = 100  # between two updates of the bar
RATE_MS = 8000  # the speed is measured over this time
# An engine that crashes more often than once in this time does not load its model again by itself.
CALM_MS = 60_000
FIRST_GUESS_MS = 1500  # no estimate of the time left before this
WITHOUT = (
    "The parts that failed run in a plainer form that gave the right numbers; answers are right, perhaps slower. "
    "A newer graphics driver or browser may help. "
)
PHASES = {
    "config": "Reading the model's description",
    "weights": "Loading weights",
    "kernels": "Preparing the GPU's programs",
    "ready": "Almost there",
}


class Loading:
    """`state`: "none", "loading" or "ready"; `model`: the model; `info`: Engine.info() once it is ready."""

    def __init__(self, client, options, on_change, actions):
        self._client = client
        self._options = options  # () -> dict of a load message's options
        self._actions = actions  # (error_type) -> buttons after a load that failed
        self._on_change = on_change
        self._awake = Awake()
        self._request = None
        self._points = []
        self._drawn = 0
        self._said = ""  # the last note that was announced
        self._before = None  # (model, info) in use until the weights of the next model arrive
        self.failed = None  # the model that failed to load while another one stays in use
        self._died = None  # when the engine last crashed
        self.state = "none"
        self.model = None
        self.info = {}

    @property
    def name(self):
        """Return the id of the model that is loaded or loading, None without one."""
        return self.model["id"] if self.model and self.state != "none" else None

    def start(self, model, commit="", keep_notice=False):
        """Load a model (or this commit of it) in place of the one that is loaded or loading."""
        if self._request:
            self._client.end(self._request)
        if self.state == "ready":
            self._before = (self.model, self.info)
        self.model = model
        self.failed = None
        self.info = {}
        self._said = ""
        self._points = []
        self._drawn = 0
        find("load-title").textContent = "Loading " + label(model)
        find("load-bytes").textContent = ""
        find("load-bar").removeAttribute("value")
        self._phase("")
        self.booting()
        show(find("notice"), keep_notice)
        show(find("load"))
        self._awake.hold()
        if "files" in model:
            name = model["id"].split(":", 1)[1]
            paths = list(model["files"])
            files = [model["files"][path] for path in paths]
            self._client.ask("files", name=name, files=files, paths=paths)
        elif model.get("endpoint"):
            self._client.ask("env", values={"HF_ENDPOINT": model["endpoint"]})
        repo = model["id"] + ("@" + commit if commit else "")
        self._request = self._client.ask("load", self._heard, repo=repo, options=self._options())
        self._become("loading")
        announce("Loading " + label(model))

    def booting(self):
        """Show that the engine itself is still starting."""
        if self._client.boots:
            self._phase(self._client.boots)

    def cancel(self):
        """Stop loading. The previous model is in use again, unless it was replaced already."""
        if self.state != "loading":
            return
        self._client.end(self._request)
        self._fall_back()
        announce("Loading was cancelled")

    def lost(self):
        """The engine is gone, and the model with it."""
        self._before = None
        self._finish("none")

    def after_death(self):
        """The engine crashed. Returns the model to load again: the one that was in use, unless the engine crashes
        often."""
        now, before, state = now_ms(), self._died, self.state
        self._died = now
        self.lost()
        calm = before is None or since_ms(before, now) > CALM_MS
        return self.model if state == "ready" and calm else None

    def _fall_back(self):
        """A load has failed or was cancelled: go back to the previous model, if the worker still has it."""
        before, self._before = self._before, None
        failed = self.model
        self._finish("none")
        if before is None:
            return

        def heard(message):
            info = message.get("value")
            # With one model left, the worker means that one, which may be the embedder.
            if info and "complete" in (info.get("tasks") or ["complete"]) and self.state == "none":
                self.model, self.info, self.failed = before[0], info, failed
                self._finish("ready")

        self._client.ask("info", heard)

    def _heard(self, message):
        status = message["status"]
        if status == "loading":
            self._phase(PHASES.get(message["message"], message["message"]))
        elif status == "progress":
            self._progress(message["loaded"], message["total"])
        elif status == "note":
            self._said = message["message"]
            js.console.warn("engine:", self._said)
            self._phase(self._said)
        elif status == "ready":
            self.info = message.get("info") or {}
            self._before = None
            self._finish("ready")
            wrong = (self.info.get("self_check") or {}).get("wrong")
            if wrong:
                problem("This GPU gave wrong numbers in a check", WITHOUT + "; ".join(wrong))
            elif self.info.get("kept") is False:
                problem(label(self.model) + " will be fetched again next time", self._said)
            announce(label(self.model) + " is ready")
        elif status == "error":
            failed = self.model
            self._fall_back()
            if message["error_type"] != "AbortError":
                text = label(failed) + " did not load"
                problem(text, message["error"], self._actions(message["error_type"]))

    def _finish(self, state):
        self._request = None
        self._awake.release()
        show(find("load"), False)
        self._become(state)

    def _become(self, state):
        self.state = state
        self._on_change()

    def _phase(self, text):
        find("load-phase").textContent = text

    def _progress(self, loaded, total):
        now = now_ms()
        points = self._points
        points.append((now, loaded))
        while len(points) > 2 and since_ms(points[0][0], now) > RATE_MS:
            points.pop(0)
        if not total or (loaded < total and since_ms(self._drawn, now) < DRAW_MS):
            return
        self._drawn = now
        bar = find("load-bar")
        bar.max = 1
        bar.value = min(loaded / total, 1)
        text = size_text(loaded) + " of " + size_text(total)
        took = since_ms(points[0][0], now)
        came = loaded - points[0][1]
        if took >= FIRST_GUESS_MS and came > 0 and loaded < total:
            text += ", " + time_text((total - loaded) * took / came / 1000) + " left"
        find("load-bytes").textContent = text


def label(model):
    """Return the name of a model as it is shown."""
    return model.get("label") or model["id"]


def time_text(seconds):
    """Return a time left in coarse words, since it is an estimate."""
    if seconds < 60:
        return f"{max(1, round(seconds))} s"
    if seconds < 3600:
        return f"{round(seconds / 60)} min"
    return f"{seconds / 3600:.1f} h"


def problem(title, text, actions=()):
    """Show an error above the message box, with buttons (text, action)."""
    find("notice-title").textContent = title
    text = text.split("\nTraceback")[0]
    find("notice-text").textContent = sentence(text)
    row = find("notice-actions")
    clear(row)
    for words, action in actions:
        row.append(button(words, action))
    row.append(button("Dismiss", "dismiss"))
    show(find("notice"))
