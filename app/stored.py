"""The models that are kept on this device: a list in the settings, each deleted alone or all at once."""

from app.device import size_text
from app.dom import announce, clear, find, show, stamp


class StoredModels:
    """Asks the engine's worker; `confirm(text, act)` asks the person."""

    def __init__(self, client, confirm):
        self._client = client
        self._confirm = confirm
        self._list = find("stored")

    def refresh(self):
        """Draw the list anew."""
        if self._client.booted is None:
            self._say("The engine has to run before this is known.")
            return
        self._client.ask("cache_list", self._draw)

    def delete(self, button):
        """The model of the button's row."""
        name = button.closest("li").getAttribute("data-model")
        self._ask(name.split("@")[0], name)

    def delete_all(self, button):
        """Every one."""
        self._ask("all models", None)

    def _ask(self, what, model):
        def act():
            self._client.ask("cache_delete", self._deleted, model=model)

        self._confirm("Delete " + what + " from this device? Loading fetches them again.", act)

    def _deleted(self, message):
        if message["status"] == "error":
            self._say(message["error"])
            return
        busy = message["value"]["busy"]
        if busy:
            self._say(", ".join(busy) + " is being loaded and was left.")
        announce(size_text(message["value"]["nbytes"]) + " given back")
        self.refresh()

    def _draw(self, message):
        clear(self._list)
        if message["status"] == "error":
            self._say(message["error"])
            return
        found = message["value"]
        models = found["models"]
        show(find("delete-models"), bool(models))
        for model in models:
            row = stamp("t-stored")
            row.setAttribute("data-model", model["model"] + "@" + model["commit"])
            name = model["model"]
            if not model["complete"]:
                name += " (not complete)"
            row.children[0].textContent = name
            row.children[0].title = model["commit"]
            row.children[1].textContent = size_text(model["nbytes"])
            row.children[2].setAttribute("aria-label", "Delete model: " + model["model"])
            self._list.append(row)
        if found["kind"] == "memory":
            self._say("This browser keeps nothing for this page: models are fetched each time.")
        elif models:
            self._say(size_text(found["nbytes"]) + " in all.")
        else:
            self._say("None yet. A model that was loaded from the hub is kept here.")

    def _say(self, text):
        find("stored-note").textContent = text
