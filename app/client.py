"""The page's side of the engine's worker. Messages: py_engine/serve/protocol.py. If Python itself fails in the worker
(`died`), a new worker is booted.

Each worker is a run with its own name. The page stores the names of the runs that it ended itself. If a run ended in
another way, the next run reports what it was doing (`crashed`). The page also stores which runs ended while their tab
was hidden. Phones end such tabs anyway, so such an end does not count against the setting that was being tried.

`handler(message)` gets every answer to its request as a dict; the last has status ready, complete, result or error.
"""

import asyncio
import json

import js
from pyscript.ffi import to_js
from pyscript.js_modules import picture_view

from app import storage
from app.dom import unique_name

ENDED, HIDDEN = "ended-runs", "hidden-runs"
MAX_RUNS = 16
LAST = ("ready", "complete", "result", "error")


class Client:
    """One worker at a time; `restart` replaces one that failed."""

    def __init__(self, runtime, facts, on_booted, on_failed, on_told, on_died):
        self._runtime = runtime  # a folder of vendor/, "" for the default
        # {name: bool} for the worker: facts that it cannot find out itself.
        self._facts = facts
        self._on_booted = on_booted
        self._on_failed = on_failed
        self._on_told = on_told  # (message) that answers no request: booting, crashed, device, ...
        self._on_died = on_died  # (reason): Python failed, and a new worker boots
        self._run = ""
        self._worker: js.Worker = None
        self._handlers = {}
        self._count = 0
        self.booted = None
        self.boots = ""  # what the worker is doing before it has booted, in words

    def start(self):
        """Boot the engine unless it runs or boots already. This loads no model."""
        if self._worker is None:
            options = to_js({"type": "module", "name": self._runtime})
            self._worker = js.Worker.new("worker.mjs", options)
            self._worker.onmessage = self._receive
            self._worker.onerror = self._broke
            self._run = unique_name()
            values = {name: "1" if fact else "" for name, fact in self._facts.items()}
            values["JERBOA_RUN"] = self._run
            values["JERBOA_LEFT"] = ",".join(kept_runs(ENDED))
            values["JERBOA_UNSEEN"] = ",".join(kept_runs(HIDDEN))
            self.ask("env", values=values)
            self.look()

    def restart(self):
        """End the worker with all that it runs, and boot a new one."""
        if self._worker is not None:
            self.leave()
            self._worker.terminate()
            self._worker = None
        self._handlers = {}
        self.booted = None
        self.start()

    def leave(self):
        """Mark the run as ended on purpose; also called before the page closes."""
        self._keep(ENDED, True)

    def stay(self):
        """Undo `leave`: the page is shown again."""
        self._keep(ENDED, False)

    def look(self):
        """Note whether the tab is hidden. The device is calibrated only while it is visible."""
        hidden = js.document.visibilityState == "hidden"
        self._keep(HIDDEN, hidden)
        if self._worker is not None:
            self.ask("env", values={"JERBOA_HIDDEN": "1" if hidden else ""})

    def _keep(self, key, this):
        """Add this run to the names under `key`, or remove it."""
        runs = [name for name in kept_runs(key) if name != self._run]
        if this and self._run:
            runs.append(self._run)
        try:
            storage.write(key, runs[-MAX_RUNS:])
        except storage.StoreFull:
            pass  # then the next start may report a closed page as a crash

    def ask(self, kind, handler=None, urls=None, **fields):
        """Send a request; returns its id. Fields that are None are left out. `urls`: a JavaScript object with the data
        URLs of the pictures that the messages name (they are too long for Python)."""
        self.start()
        self._count += 1
        name = str(self._count)
        message = {"type": kind, "id": name}
        message.update({k: v for k, v in fields.items() if v is not None})
        if handler:
            self._handlers[name] = handler
        sent = to_js(message)
        self._worker.postMessage(picture_view.filled(sent, urls) if urls else sent)
        return name

    async def answer(self, kind, on_row=None, on_asked=None, **fields):
        """Send a request and return its last message, which may be an error. `on_row` gets the messages before it;
        `on_asked` the id."""
        done = asyncio.Event()
        last = []

        def heard(message):
            if message["status"] in LAST:
                last.append(message)
                done.set()
            elif on_row:
                on_row(message)

        name = self.ask(kind, heard, **fields)
        if on_asked:
            on_asked(name)
        await done.wait()
        return last[0]

    def interrupt(self, name):
        """Stop a request; it is still answered."""
        if self._worker is not None:
            self._worker.postMessage(to_js({"type": "interrupt", "id": name}))

    @property
    def run(self):
        """Return the name of the worker's run, "" before the first."""
        return self._run

    def awaits(self, name):
        """Tell whether the request of this id is still unanswered."""
        return name in self._handlers

    def end(self, name):
        """Stop a load or an answer; its later messages are ignored."""
        self._handlers.pop(name, None)
        self.interrupt(name)

    def _receive(self, event):
        # Converted as JSON, because MicroPython truncates numbers above 2**31 otherwise.
        message = json.loads(js.JSON.stringify(event.data))
        status = message.get("status")
        if status == "booted":
            self.booted = message
            self.boots = ""
            self._on_booted(message)
        elif status == "died":
            self._died(message.get("message") or "it gave no reason")
        elif status in ("booting", "crashed", "calibrated", "device"):
            if status == "booting":
                self.boots = message["message"]
            self._on_told(message)
        elif status == "log":
            js.console.info("engine:", message.get("message"))
        elif status == "error" and message.get("id") is None and self.booted is None:
            self._fail(message.get("error") or "it gave no reason")
        else:
            name = message.get("id")
            handler = self._handlers.pop(name, None) if status in LAST else self._handlers.get(name)
            if handler:
                handler(message)

    def _broke(self, event):
        event.preventDefault()
        try:
            reason = event.message or "its files did not load"
        except AttributeError:
            reason = "its files did not load"
        if self.booted is None:
            self._fail(reason)
        else:
            js.console.error("engine:", reason)

    def _died(self, reason):
        """Python failed: report an error for every open request and boot a new worker."""
        self.leave()  # the page reports this itself, so the next run need not
        handlers = self._end()
        self.booted = None
        self.start()
        _fail_all(handlers, "the engine ended in the middle of this (" + reason + ")")
        self._on_died(reason)

    def _fail(self, reason):
        handlers = self._end()
        self._on_failed(reason)
        _fail_all(handlers, reason)

    def _end(self):
        """End the worker; returns the requests that are still unanswered, by id."""
        worker, self._worker = self._worker, None
        if worker is not None:
            worker.terminate()
        handlers, self._handlers = self._handlers, {}
        return handlers


def _fail_all(handlers, reason):
    for name, handler in handlers.items():
        handler({"status": "error", "id": name, "error_type": "EngineError", "error": reason})


def kept_runs(key):
    """Return the names of the runs stored under `key`."""
    kept = storage.read(key, [])
    return [name for name in kept if isinstance(name, str)] if isinstance(kept, list) else []
