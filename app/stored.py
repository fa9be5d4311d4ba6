"""The models that are stored on this device: a list in the settings, each deleted alone or all at once."""

import asyncio

from app import storage
from app.device import size_text
from app.dom import announce, clear, find, make, show, stamp


class StoredModels:
    """Asks the engine's worker, which needs no GPU for this. `confirm(text, act)` asks the user; `in_use()` returns
    the id of the model that is loaded or loading, None without one; `on_listed()` is called when `whole` is known."""

    def __init__(self, client, confirm, in_use, on_listed):
        self._client = client
        self._confirm = confirm
        self._in_use = in_use
        self._on_listed = on_listed
        self.whole = {}  # id -> commit of the models that load without a download
        self._list = find("stored")
        self._request = None  # id of the request for the list
        self._said = ""  # the result of a deletion, in words
        self._names = []  # "org/name@commit" of each row
        self._row = 0  # number of the row that is being deleted

    def refresh(self):
        """Redraw the list."""
        if self._client.awaits(self._request):
            return
        if not self._list.childElementCount:
            self._say("Reading the list of models.")
        self._request = self._client.ask("cache_list", self._redraw)

    def delete(self, button):
        """Delete the model of the button's row."""
        row = button.closest("li")
        name = row.getAttribute("data-model")
        self._row = self._names.index(name)
        text = f"Delete {name.split('@')[0]} from this device? "
        if row.querySelector(".used"):
            text += "It is in use and goes on answering. "
        self._ask(text + "Loading fetches it again.", name)

    def delete_all(self, button):
        """Delete every model."""
        self._row = 0
        self._ask("Delete all models from this device? Loading fetches them again.", None)

    def _ask(self, text, model):
        def act():
            self._say("Deleting.")
            self._client.ask("cache_delete", self._deleted, model=model)

        self._confirm(text, act)

    def _deleted(self, message):
        self._said = ""
        if message["status"] == "error":
            self._said = message["error"] + " "
        else:
            gone = message["value"]
            told = size_text(gone["nbytes"]) + " given back"
            if gone["busy"]:
                names = ", ".join([name.split("@")[0] for name in gone["busy"]])
                self._said = names + " stays: it is being loaded, here or in another tab. "
                told += "; " + self._said
            announce(told)
        self._client.ask("cache_list", self._draw_shorter)

    def _redraw(self, message):
        """Redraw the list; the focus stays on its row."""
        rows = range(self._list.childElementCount)
        focused = [i for i in rows if self._list.children[i].matches(":focus-within")]
        self._draw(message)
        if focused:
            self._focus(focused[0])

    def _draw_shorter(self, message):
        """Redraw the list after a deletion."""
        self._draw(message)
        self._focus(self._row)

    def _draw(self, message):
        clear(self._list)
        if message["status"] == "error":
            show(find("delete-models"), False)
            self._say(self._said + message["error"])
            return
        found = message["value"]
        models = found["models"]
        show(find("delete-models"), bool(models))
        self._names = [model["model"] + "@" + model["commit"] for model in models]
        by_use = sorted(models, key=lambda model: model["used"] or 0)
        self.whole = {model["model"]: model["commit"] for model in by_use if model["complete"]}
        self._on_listed()
        for model in models:
            self._list.append(self._draw_model(model))
        if found["kind"] == "memory":
            text = "This browser keeps nothing for this page: models are fetched each time."
        elif models:
            text = size_text(found["nbytes"]) + " in all."
            asyncio.create_task(self._tell_if_safe(text))
        else:
            text = "None yet. A model that was loaded from the hub is kept here."
        self._say(self._said + text)

    def _draw_model(self, model):
        row = stamp("t-stored")
        row.setAttribute("data-model", model["model"] + "@" + model["commit"])
        name = row.querySelector(".name")
        name.textContent = model["model"]
        name.title = model["commit"]
        if not model["complete"]:
            name.append(make("small", "not complete: the next load goes on from here"))
        if (self._in_use() or "").split("@")[0] == model["model"]:
            name.append(make("small", "in use", "used"))
        row.querySelector(".size").textContent = size_text(model["nbytes"])
        row.querySelector("button").setAttribute("aria-label", "Delete model: " + model["model"])
        return row

    async def _tell_if_safe(self, text):
        status = await storage.get_storage_status()
        if not status["persisted"] and find("stored-note").textContent == self._said + text:
            self._say(self._said + text + " The browser may remove them when it needs the room.")

    def _focus(self, number):
        """Focus the row that took the place of this one; without rows, the text that says so."""
        if not find("settings").open:
            return
        count = self._list.childElementCount
        if count:
            kept = self._list.children[min(number, count - 1)]
            kept.querySelector("button").focus()
        else:
            find("stored-note").focus()

    def opened(self):
        """The settings were opened: clear the words about earlier deletions."""
        self._said = ""
        self.refresh()

    def _say(self, text):
        find("stored-note").textContent = text
