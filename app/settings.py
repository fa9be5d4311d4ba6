"""The settings dialog: system prompt, sampling, context. Stored on this device."""

from app import storage
from app.dom import find
from app.mending import is_number

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
    """The user's settings; one that is absent is left to the model."""

    def __init__(self, on_problem):
        kept = storage.read(KEY, {})
        self._values = kept if isinstance(kept, dict) else {}
        for name in [name for name in self._values if not _fits(name, self._values[name])]:
            del self._values[name]
        self._on_problem = on_problem
        self._full = False  # the store refused the last values, and this was shown
        self._form = find("settings-form")
        self._form.addEventListener("change", self._changed)
        # A text is stored while it is typed: "change" comes only when the field is left, and the page may close
        # before.
        self._input("system").addEventListener("input", self._changed)

    @property
    def system(self):
        """Return the system prompt, "" for none."""
        return self._values.get("system", "")

    @property
    def context(self):
        """Return the context in tokens for the next load, None for the model's default."""
        return self._values.get("context")

    @property
    def thinking(self):
        """Return "on", "off", or "auto": the default of the model's template. (An older page stored False for
        "off".)"""
        value = self._values.get("thinking")
        return "off" if value is False else value if value in ("on", "off") else "auto"

    def options(self, info):
        """Return the `options` of a generate message, for the model of this Engine.info()."""
        found = {name: self._values[name] for name in NUMBERS if name in self._values}
        if self.thinking != "auto" and can_switch_thinking(info):
            found["enable_thinking"] = self.thinking == "on"
        return found

    def be_careful(self, context, group):
        """From the next load on, use a smaller context (tokens), and command buffers of this many dispatches; None:
        unchanged. `reset` undoes it."""
        for name, value in (("context", context), ("group", group)):
            if value is not None:
                self._values[name] = value
        self._keep(self._values)

    @property
    def group(self):
        """Return the dispatches per command buffer, None for the engine's default."""
        return self._values.get("group")

    def show(self, info):
        """Fill the form and open it; `info`: Engine.info() of the model in use, {} without one."""
        for name in NUMBERS + ("context",):
            value = self._values.get(name)
            if value is not None and value == int(value):
                value = int(value)
            self._input(name).value = "" if value is None else str(value)
        self._input("system").value = self.system
        useless = bool(info) and not can_switch_thinking(info)
        self._input("thinking").value = self.thinking
        self._input("thinking").disabled = useless
        find("thinking-note").textContent = (
            "this model has no such switch" if useless else "before the answer, folded"
        )
        find("settings").showModal()

    def reset(self, info):
        """Reset all settings to their defaults."""
        self._values = {}
        storage.remove(KEY)
        find("settings").close()
        self.show(info)

    def _input(self, name):
        return self._form.elements.namedItem(name)

    def _changed(self, event):
        values = dict(self._values)
        name = event.target.name
        if name == "thinking":
            values[name] = event.target.value
        elif name == "system":
            values[name] = event.target.value.strip()
        elif not event.target.checkValidity():
            event.target.reportValidity()
            return
        elif event.target.value.strip():
            # float: whole numbers above 2**31 would be truncated on their way to the worker
            values[name] = float(event.target.value)
        else:
            values.pop(name, None)
        self._keep(values)

    def _keep(self, values):
        self._values = values
        try:
            storage.write(KEY, values)
            self._full = False
        except storage.StoreFull:
            if not self._full:
                self._full = True
                self._on_problem(
                    "The setting holds until this page is closed: the browser's store is full."
                )


def _fits(name, value):
    """Tell whether a stored value is one that the form allows."""
    if name in ("context", "group"):
        return is_number(value) and value >= 1
    if name in NUMBERS:
        return is_number(value)
    return name != "system" or isinstance(value, str)


def can_switch_thinking(info):
    """Tell whether the template of the model takes enable_thinking."""
    return bool((info.get("thinking") or {}).get("switch"))
