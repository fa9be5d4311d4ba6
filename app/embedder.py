"""The model that finds passages in documents, beside the chat model in the same worker: chosen, loaded, lost."""

import asyncio

from app import storage
from app.device import fit, size_text
from app.dom import announce, clear, find, sentence, show, stamp
from app.loading import label

NAME = "embedder"  # by which messages to the worker call it; the chat model has no name
LAST = "embedder"  # key of the model that was chosen last


class Embedder:
    """`state`: "none", "loading" or "ready". `on_change` is called when it changes. `page` has the client, the chat
    model and the stored models."""

    def __init__(self, page, on_change):
        self._page = page
        self._on_change = on_change
        self._models = []
        self._run = None  # the worker that has the model
        self._waiting = []  # events of those who wait for the model
        self._state = "none"
        self._line = ""
        self._model: dict = {}
        self._form = find("embedder-form")
        self._choices = self._form.querySelector(".choices")
        self._form.addEventListener("submit", self._submit)
        find("embedder").addEventListener("close", lambda event: self._tell_waiting())

    @property
    def state(self):
        """Return the state; a model is lost with its worker."""
        return self._state if self._run == self._page.client.run else "none"

    @property
    def line(self):
        """Return what is to be said about it, in words."""
        return self._line if self._state == self.state else ""

    def offer(self, config):
        """Take the models that the server offers."""
        self._models = (config or {}).get("embedders") or []

    # ---- choosing

    def open(self, button=None):
        """Open the dialog to choose a model. Each is shown with its size, and whether it fits beside the chat model."""
        clear(self._choices)
        last = storage.read(LAST)
        ids = [model["id"] for model in self._models]
        chosen = last if last in ids else (ids or [None])[0]
        for model in self._models:
            row = stamp("t-choice")
            box = row.querySelector("input")
            box.name, box.value, box.checked = "embedder", model["id"], model["id"] == chosen
            row.querySelector(".name").textContent = label(model)
            row.querySelector(".note").textContent = model.get("note") or ""
            row.querySelector(".size").textContent = size_text(model["size"])
            kind, text = fit(together(model, self._page.loading.model))
            row.querySelector(".fit").textContent = text + self._beside()
            row.querySelector(".fit").classList.add(kind)
            self._choices.append(row)
        show(self._choices, bool(ids))
        show(self._form.querySelector(".empty"), not ids)
        self._form.querySelector(".other").open = not ids
        if not find("embedder").open:
            find("embedder").showModal()

    def _beside(self):
        model = self._page.loading.name and self._page.loading.model
        return f" (with {label(model)})" if model else ""

    def _submit(self, event):
        event.preventDefault()
        named = self._form.elements.namedItem("embedder-hub").value.strip()
        box = self._form.querySelector("input[name=embedder]:checked")
        if not named and box is None:
            self._form.querySelector(".other").open = True
            return
        found = [model for model in self._models if not named and model["id"] == box.value]
        hub = {"id": named, "label": named.split("/")[-1], "endpoint": self._page.picker.hub}
        self.load(found[0] if found else hub)
        find("embedder").close()

    # ---- loading

    async def ready(self):
        """Load the model that was chosen last if all of it is stored here, else let the user choose. Returns whether
        one is ready."""
        if self.state == "none":
            model = self._at_hand()
            if model:
                self.load(model, self._page.stored_models.whole[model["id"]])
            else:
                self.open()
        while self.state == "loading" or find("embedder").open:
            event = asyncio.Event()
            self._waiting.append(event)
            await event.wait()
        return self.state == "ready"

    def _at_hand(self):
        name = storage.read(LAST)
        offered = [model for model in self._models if model["id"] == name]
        if name not in self._page.stored_models.whole:
            return None
        return offered[0] if offered else {"id": name, "label": name.split("/")[-1]}

    def load(self, model, commit=""):
        """Load a model in place of the one that is there."""
        client = self._page.client
        self._model = model
        if model.get("endpoint"):
            client.ask("env", values={"HF_ENDPOINT": model["endpoint"]})
        repo = model["id"] + ("@" + commit if commit else "")
        client.ask("load", self._heard, repo=repo, model=NAME, options={})
        self._run = client.run
        self._become("loading", "Loading " + label(model))

    def _heard(self, message):
        status, name = message["status"], label(self._model)
        if status == "progress" and message["total"]:
            done, total = size_text(message["loaded"]), size_text(message["total"])
            self._become("loading", f"Loading {name}: {done} of {total}")
        elif status == "ready" and "embed" not in (message["info"].get("tasks") or []):
            self._page.client.ask("unload", model=NAME)
            self._become("none", f"{name} makes no vectors of texts. Choose an embedder.")
        elif status == "ready":
            self._remember()
            self._become("ready", "Searched by " + name)
            announce(name + " is ready")
        elif status == "error":
            text = sentence(message["error"].split("\nTraceback")[0])
            self._become("none", f"{name} did not load. {text}")

    def _remember(self):
        try:
            storage.write(LAST, self._model["id"])
        except storage.StoreFull:
            pass  # storing the choice is optional

    def _become(self, state, line):
        self._state, self._line = state, line
        if state != "loading":
            self._tell_waiting()
        self._on_change()

    def _tell_waiting(self):
        waiting, self._waiting = self._waiting, []
        for event in waiting:
            event.set()


def together(model, other):
    """Return a model of the size of both, for the fit check. `other` may be None."""
    if not other or not other.get("size"):
        return model
    found = {"size": model["size"] + other["size"]}
    if model.get("memory") and other.get("memory"):
        found["memory"] = model["memory"] + other["memory"]
    return found
