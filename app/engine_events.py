"""What the engine's worker reports without being asked: it has booted, failed or crashed, the GPU was lost, an
earlier page crashed. Each is shown to the user, with what to do about it."""

import js
from js import document

from app import crash, updates
from app.dom import find, show
from app.loading import problem

AGAIN_OR_OTHER = (("Try again", "reload-model"), ("Choose another model", "open-models"))


class EngineEvents:
    """Methods that client.py calls."""

    def __init__(self, page):
        self._page = page
        # A crash.Smaller, offered after a crash or when memory ran out.
        self.smaller = None

    def booted(self, message):
        """Python runs in the worker."""
        document.body.setAttribute("data-engine", "ready")
        self._page.draw_state()
        js.performance.mark("engine")
        self._page.stored_models.refresh()
        updates.watch()  # only now, so that the shell's files do not delay the engine's
        js.console.info("engine:", message["runtime"], message["boot_ms"], "ms")

    def told(self, message):
        """Handle a message that answers no request."""
        status, loading = message["status"], self._page.loading
        if status == "booting":
            loading.booting()
            self._page.draw_state()
        elif status == "calibrated":
            crash.keep_proven(message)
        elif status == "device":
            self._gpu_lost(message)
        else:
            self.smaller = found = crash.Crash(message)
            if loading.name == found.model:  # chosen again before this was known
                loading.cancel()
            found.show()

    def failed(self, reason):
        """The worker is gone."""
        document.body.setAttribute("data-engine", "failed")
        self._page.loading.lost()
        actions = (("Try again", "restart-engine"),)
        updates.watch()  # a newer version may fix it
        text = reason + "\nCheck the connection, then try again."
        problem("The engine did not start", text, actions)

    def died(self, reason):
        """Python crashed in the worker, and a new worker boots. The chat stays, and the model is loaded again, unless
        it caused the crash."""
        document.body.setAttribute("data-engine", "booting")
        model = self._page.loading.after_death()
        again = () if model else AGAIN_OR_OTHER
        back = "The model is being loaded again; then ask again. " if model else ""
        text = "It used up its memory or its stack, and was restarted. The chat is as it was. "
        problem("The engine broke down", text + back + "(" + reason + ")", again)
        if model:
            self._page.loading.start(model, keep_notice=True)

    def _gpu_lost(self, message):
        """The worker reports a lost GPU: first what it does about it, then the result."""
        during = message["during"]
        if message["state"] == "lost":
            rest = {"load": "Loading begins again.", "idle": "The model is being loaded again."}
            answer = "The model is being loaded again, then the answer goes on."
            problem("The GPU was lost", rest.get(during, answer))
        elif message["state"] == "recovered":
            goes_on = "" if during in ("load", "idle") else " The answer goes on."
            problem("The GPU was lost and is back", "The chat is as it was." + goes_on)
        elif during == "idle":
            self._page.loading.lost()
            problem("The GPU is gone", message["message"], AGAIN_OR_OTHER)
        elif during != "load" and message["losses"] > 1:
            actions = self.with_less("DeviceLostError")
            problem("The GPU was lost again and again", message["message"], actions)
        else:
            show(find("notice"), False)  # the load or answer that failed says why

    def with_less(self, error_type):
        """Return the buttons after a load or an answer that failed with this error: a smaller setting, if memory ran
        out."""
        if error_type not in ("DeviceLostError", "OutOfMemoryError"):
            return AGAIN_OR_OTHER
        loading = self._page.loading
        context = (loading.info.get("context") or {}).get("max")
        context = context or self._page.load_options().get("context")
        self.smaller = crash.Smaller(loading.model["id"], context)
        return self.smaller.actions()

    def restart(self, button=None):
        """Boot a fresh worker."""
        show(find("notice"), False)
        document.body.setAttribute("data-engine", "booting")
        self._page.client.restart()
