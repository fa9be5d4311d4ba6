"""The settings dialog: system prompt, sampling, context. Kept on this device."""

from app import storage
from app.dom import find

KEY = "settings"
NUMBERS = (
    "temperature",
    "top_k",
    "top_p",
    "min_p",
    "repetition_penalty",
    "presence_penalty",
    "frequency_penalty",
    "max_tokens",
    "seed",
)


class Settings:
    """What the person chose; absent: the model's own choice."""

    def __init__(self, on_problem):
        self._values = storage.read(KEY, {})
        if not isinstance(self._values, dict):
            self._values = {}
        self._on_problem = on_problem
        self._form = find("settings-form")
        self._form.addEventListener("change", self._changed)

    @property
    def system(self):
        """The system prompt, "" for none."""
        return self._values.get("system", "")

    @property
    def context(self):
        """Tokens to make room for at the next load, None for the model's own."""
        return self._values.get("context")

    def options(self):
        """The `options` of a generate message."""
        found = {name: self._values[name] for name in NUMBERS if name in self._values}
        if self._values.get("thinking") is False:
            found["enable_thinking"] = False
        return found

    def show(self):
        """Fill the form and open it."""
        for name in NUMBERS + ("context",):
            value = self._values.get(name)
            if value is not None and value == int(value):
                value = int(value)
            self._input(name).value = "" if value is None else str(value)
        self._input("system").value = self.system
        self._input("thinking").checked = self._values.get("thinking") is not False
        find("settings").showModal()

    def reset(self):
        """Everything as it came."""
        self._values = {}
        storage.remove(KEY)
        find("settings").close()
        self.show()

    def _input(self, name):
        return self._form.elements.namedItem(name)

    def _changed(self, event):
        values = dict(self._values)
        name = event.target.name
        if name == "thinking":
            values[name] = bool(event.target.checked)
        elif name == "system":
            values[name] = event.target.value.strip()
        elif not event.target.checkValidity():
            event.target.reportValidity()
            return
        elif event.target.value.strip():
            # float: whole numbers above 2**31 would be cut off on their way to the worker
            values[name] = float(event.target.value)
        else:
            values.pop(name, None)
        self._values = values
        try:
            storage.write(KEY, values)
        except storage.StoreFull:
            self._on_problem(
                "The setting holds until this page is closed: the browser's store is full."
            )
