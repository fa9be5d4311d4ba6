"""Choosing a model: one that the server offers, one of the hub, a folder of the user. Loading is loading.py's."""

from app import device, storage
from app.dom import announce, clear, field, find, make, show, stamp

LAST = "model"


class Picker:
    """The form, in the empty page or in the dialog. A model is a dict as in /config.json."""

    def __init__(self, on_chosen, on_folder):
        self.models = []
        self._coming = []  # models that the server is still fetching
        self.hub = None  # the hub's address; None until /config.json has come or failed
        self._on_chosen = on_chosen
        self._on_folder = on_folder
        self.form = stamp("t-picker")
        self._choices = self.form.querySelector(".choices")
        self._input = self.form.querySelector("input[type=file]")
        self._hub = self.form.elements.namedItem("hub")
        self._hub.addEventListener("input", self._typed)
        self.form.addEventListener("submit", self._submit)
        self._input.addEventListener("change", self._picked)

    def offer(self, config):
        """Show the models of /config.json (None: it did not load). Called again when it has changed."""
        empty = self.form.querySelector(".empty")
        config = config or {"failed": True}
        own = [model for model in self.models if "files" in model]
        models = (config.get("models") or []) + own
        coming = config.get("fetching") or []
        if config.get("failed"):
            empty.textContent = (
                "The list of models did not load. Reload the page, or name one below."
            )
        elif config.get("looking"):
            empty.textContent = "This server looks for models. Wait a moment, or name one below."
        else:
            empty.textContent = (
                "This server offers no model of its own. Name one below, or open a folder."
            )
        self.hub = config.get("hub") or ""
        show(empty, not models and not coming)
        if not models and not coming and not config.get("looking"):
            self.form.querySelector(".other").open = True
        told = [model["label"] for model in self._coming]
        self._coming = coming
        if ids(models) == ids(self.models) and [model["label"] for model in coming] == told:
            self._draw_coming()
            return
        checked = self.form.querySelector("input[name=model]:checked")
        self.models = models
        self._draw(checked and checked.value)
        for model in models:
            if model.get("label") in told:
                announce(model["label"] + " can be chosen now")

    def show_gpu(self, gpu):
        """Name the GPU that will be used."""
        text = gpu.name + (" (a GPU in software: correct, but slow)" if gpu.software else "")
        line = self.form.querySelector(".gpu")
        line.textContent = line.title = text  # the title shows the text where the line is cut

    def place(self, where):
        """Move the form into this element."""
        find(where).append(self.form)

    def add_folder(self, name, files):
        """Add a folder that was picked, and return its model."""
        from app import folders  # imported here, since few visits need it

        model = {
            "id": "files:" + name,
            "label": name,
            "note": "A folder on this device.",
            "size": folders.total(files),
            "files": files,
        }
        self.models = [m for m in self.models if m["id"] != model["id"]] + [model]
        self._draw(model["id"])
        return model

    def find(self, name):
        """Return the model of this id, from the list or from the hub; None for a folder that is no longer open."""
        for model in self.models:
            if model["id"] == name:
                return model
        return None if ":" in name else self._hub_model(name)

    def pick_folder(self):
        """Open the browser's folder dialog."""
        self._input.value = ""
        self._input.click()

    def _draw(self, chosen=None):
        clear(self._choices)
        ids = [model["id"] for model in self.models]
        if not chosen and self._hub.value.strip():
            chosen = ""  # the typed name is loaded
        elif chosen not in ids:
            chosen = self._usual(ids)
        for model in self.models:
            row = stamp("t-choice")
            box = row.querySelector("input")
            box.value = model["id"]
            box.checked = model["id"] == chosen
            row.querySelector(".name").textContent = model.get("label") or model["id"]
            row.querySelector(".note").textContent = model.get("note") or ""
            fit = row.querySelector(".fit")
            if model.get("size"):
                row.querySelector(".size").textContent = device.size_text(model["size"])
                kind, text = device.fit(model)
                fit.textContent = text
                fit.classList.add(kind)
            else:
                fit.textContent = "Its size is not known before it loads."
            self._choices.append(row)
        for model in self._coming:
            row = stamp("t-choice")
            row.classList.add("coming")
            row.querySelector("input").disabled = True
            row.querySelector(".name").textContent = model["label"]
            row.querySelector(".note").textContent = model["note"]
            self._choices.append(row)
        self._draw_coming()
        show(self._choices, bool(self.models or self._coming))

    def _draw_coming(self):
        rows = self._choices.querySelectorAll(".coming .fit")
        for row, model in zip(rows, self._coming):  # noqa: B905  (MicroPython's zip has no strict)
            row.textContent = coming_text(model)

    def _usual(self, ids):
        """Return the model that is selected by default."""
        last = storage.read(LAST)
        defaults = [model["id"] for model in self.models if model.get("default")]
        return last if last in ids else (defaults or ids or [None])[0]

    def _typed(self, event):
        """Either a card is chosen or a name is typed: a name deselects the cards, an empty one selects a card
        again."""
        named = self._hub.value.strip()
        usual = self._usual([model["id"] for model in self.models])
        for box in self._choices.querySelectorAll("input"):
            box.checked = not named and box.value == usual

    def _submit(self, event):
        event.preventDefault()
        named = self._hub.value.strip()
        box = self.form.querySelector("input[name=model]:checked")
        if box is None and named:
            self._choose(self._hub_model(named))
        elif box is None:
            self.form.querySelector(".other").open = True
            self._hub.focus()
        else:
            self._choose([model for model in self.models if model["id"] == box.value][0])

    def _choose(self, model):
        if "files" not in model:
            try:
                storage.write(LAST, model["id"])
            except storage.StoreFull:
                pass  # storing the choice is optional
        self._on_chosen(model)

    def last(self):
        """Return the model that was chosen last, in this visit or an earlier one; None when that is unknown (yet)."""
        name = storage.read(LAST)
        return self.find(name) if isinstance(name, str) and self.hub is not None else None

    def _hub_model(self, name):
        for start in ("https://huggingface.co/", "http://huggingface.co/", "huggingface.co/"):
            if name.startswith(start):
                name = "/".join(name[len(start) :].split("/")[:2])
        label = name.split("/")[-1]
        return {"id": name, "label": label, "endpoint": self.hub}

    def _picked(self, event):
        if field(self._input.files, "length", 0):
            self._on_folder(lambda folders: folders.from_input(self._input))


def ids(models):
    """Return the ids of a list of models."""
    return [model["id"] for model in models]


def coming_text(model):
    """Return the progress of a model that the server is still fetching."""
    if model["phase"] == "failed":
        return "It could not be fetched: " + model["message"]
    if model["phase"] == "convert":
        return "Fetched; it is being prepared."
    if model["phase"] == "waiting":
        return "It will be fetched next."
    total = device.size_text(model["total"])
    return "It is being fetched: " + device.size_text(model["done"]) + " of " + total + "."


def problem_card(title, text):
    """Return the card that replaces the picker when there is no GPU."""
    card = make("div", "", "card problem")
    card.setAttribute("role", "alert")
    inside = make("div")
    inside.append(make("strong", title), make("p", text))
    card.append(inside)
    return card
