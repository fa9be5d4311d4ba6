"""A small client of WebDriver BiDi (https://www.w3.org/TR/webdriver-bidi/), which Firefox speaks over a WebSocket without
a driver program: what the tests of tests_e2e/test_firefox.py need of it. A `Tab` has the few methods of Playwright's
`Page` that tests_e2e/conftest.py uses, so that its `Worker` and `Probe` run in Firefox as they are.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from websockets.sync.client import ClientConnection, connect

from devtools.firefox import Firefox

PATIENCE_S = 240.0  # no answer takes so long on an idle machine
SERVER_FILE = "WebDriverBiDiServer.json"  # Firefox writes into the profile where it listens


class BidiError(AssertionError):
    """Firefox refused a command, or did not answer it."""


class Browser:
    """One Firefox process."""

    def __init__(self, process: subprocess.Popen[bytes], socket: ClientConnection) -> None:
        self._process = process
        self._socket = socket
        self._count = 0
        self.console: list[str] = []  # what pages and workers said, in order
        self.command("session.new", capabilities={})
        self.command("session.subscribe", events=["log.entryAdded"])

    def command(self, method: str, **params: Any) -> Any:
        """Its result. Raises BidiError, also when none comes within PATIENCE_S."""
        self._count += 1
        self._socket.send(json.dumps({"id": self._count, "method": method, "params": params}))
        deadline = time.monotonic() + PATIENCE_S
        while True:
            left = deadline - time.monotonic()
            try:
                message = json.loads(self._socket.recv(timeout=max(left, 0.0)))
            except TimeoutError:
                raise BidiError(f"Firefox did not answer {method} in {PATIENCE_S:g} s") from None
            if message.get("method") == "log.entryAdded":
                self.console.append(str(message["params"].get("text")))
            if message.get("id") != self._count:
                continue
            if message["type"] == "error":
                raise BidiError(f"{method}: {message['error']}: {message['message']}")
            return message["result"]

    def new_tab(self, private_from: str | None = None) -> Tab:
        """An empty tab. `private_from`: a context of `new_context`; without it, that of the profile."""
        place = {"userContext": private_from} if private_from else {}
        made = self.command("browsingContext.create", type="tab", **place)
        return Tab(self, made["context"])

    def new_context(self) -> str:
        """A part of the profile with storage of its own, empty at first."""
        context: str = self.command("browser.createUserContext")["userContext"]
        return context

    def quit(self) -> None:
        """As a person does: what is kept is written."""
        self.command("browser.close")
        self._process.wait(PATIENCE_S)


class Tab:
    """One tab; the methods of Playwright's Page by the same names."""

    def __init__(self, browser: Browser, context: str) -> None:
        self.browser = browser
        self._context = context

    def goto(self, url: str) -> None:
        """Load an address, until its load event."""
        self.browser.command(
            "browsingContext.navigate", context=self._context, url=url, wait="complete"
        )

    def reload(self) -> None:
        """Load it again."""
        self.browser.command("browsingContext.reload", context=self._context, wait="complete")

    def evaluate(self, script: str, argument: Any = None) -> Any:
        """What a function, called with `argument`, or an expression gives; promises are awaited. Both ways by JSON."""
        call = f"""async text => {{
          const it = ({script});
          const value = typeof it === 'function' ? await it(JSON.parse(text)) : await it;
          return JSON.stringify(value) ?? 'null'; }}"""
        done = self.browser.command(
            "script.callFunction",
            functionDeclaration=call,
            arguments=[{"type": "string", "value": json.dumps(argument)}],
            target={"context": self._context},
            awaitPromise=True,
            userActivation=True,
        )
        if done["type"] == "exception":
            raise BidiError(f"{done['exceptionDetails']['text']} in: {script}")
        return json.loads(done["result"]["value"])

    def until(self, script: str, timeout: float = PATIENCE_S) -> Any:
        """Evaluate it again and again until it gives something true: that."""
        deadline = time.monotonic() + timeout
        while not (found := self.evaluate(script)):
            if time.monotonic() > deadline:
                words = "\n".join(self.browser.console[-20:])
                raise BidiError(f"not within {timeout:g} s: {script}\nits console:\n{words}")
            time.sleep(0.1)
        return found

    def close(self) -> None:
        """End it."""
        self.browser.command("browsingContext.close", context=self._context)


@contextlib.contextmanager
def running(firefox: Firefox, profile: Path) -> Iterator[Browser]:
    """A new process on a profile folder. It is dead afterwards."""
    log = profile.with_name(profile.name + ".log")
    (profile / SERVER_FILE).unlink(missing_ok=True)
    process = firefox.start(profile, ["--remote-debugging-port", "0", "about:blank"], log)
    try:
        with connect(
            address(process, profile / SERVER_FILE, log),
            max_size=None,
            open_timeout=60,
            close_timeout=5,
            compression=None,
        ) as socket:
            yield Browser(process, socket)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def address(process: subprocess.Popen[bytes], file: Path, log: Path) -> str:
    """Where it listens, once it does. Raises BidiError."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        with contextlib.suppress(OSError, ValueError):
            found = json.loads(file.read_text())
            return f"ws://{found['ws_host']}:{found['ws_port']}/session"
        if process.poll() is not None or time.monotonic() > deadline:
            words = log.read_text(errors="replace")[-2000:]
            raise BidiError(f"Firefox does not listen ({process.poll()}):\n{words}")
        time.sleep(0.1)
