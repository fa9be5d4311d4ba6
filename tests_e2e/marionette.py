"""A small client of Marionette, which drives Firefox over a socket without a driver program
(https://firefox-source-docs.mozilla.org/testing/marionette/Protocol.html). It has what tests_e2e/test_firefox.py needs.
A `Tab` has the few methods of Playwright's `Page` that tests_e2e/conftest.py uses, so `Worker` and `Probe` run in
Firefox unchanged.

WebDriver BiDi does not work here: its session listens to workers, and then a worker of Firefox 159 that starts another
worker can stop for good (it waits for a signal that the new worker may take:
WorkerPrivate::WaitForIsDebuggerRegistered).
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from devtools.firefox import Firefox

PATIENCE_S = 240.0  # on an idle machine no answer takes so long
PORT_FILE = "MarionetteActivePort"  # Firefox writes its port into this file of the profile

# Runs in the page itself, whose policy lets documents evaluate scripts. The result of a script is left in
# `window.answered`.
BEGIN = """const page = window.wrappedJSObject ?? window; // without the wrapper of the sandbox
page.eval(`(async () => {
  const answered = window.answered ??= {};
  try {
    const it = (${arguments[1]});
    const value = typeof it === 'function' ? await it(${arguments[2]}) : await it;
    answered[${arguments[0]}] = JSON.stringify({ value: value ?? null });
  } catch (error) {
    answered[${arguments[0]}] = JSON.stringify({ error: String(error) });
  }
})()`);"""
TAKE = """const all = (window.wrappedJSObject ?? window).answered ?? {};
const text = all[arguments[0]]; delete all[arguments[0]]; return text ?? null;"""


class FirefoxError(AssertionError):
    """Firefox refused a command, or did not answer it."""


class Browser:
    """One Firefox process."""

    def __init__(self, process: subprocess.Popen[bytes], connection: socket.socket) -> None:
        self._process = process
        self._socket = connection
        self._rest = b""
        self._ids = itertools.count(1)
        self._read("a greeting")
        self.command("WebDriver:NewSession", capabilities={"alwaysMatch": {}})
        self.command("WebDriver:SetTimeouts", script=30_000, pageLoad=int(PATIENCE_S * 1000))
        self._first = self.command("WebDriver:GetWindowHandle")["value"]

    def _read(self, wanted: str) -> Any:
        """The next message: its length in bytes, a colon, JSON. Raises FirefoxError, which names what was waited
        for."""
        try:
            while b":" not in self._rest:
                self._rest += self._more()
            length, _, self._rest = self._rest.partition(b":")
            while len(self._rest) < int(length):
                self._rest += self._more()
        except TimeoutError:
            raise FirefoxError(f"Firefox did not answer {wanted} in {PATIENCE_S:g} s") from None
        text, self._rest = self._rest[: int(length)], self._rest[int(length) :]
        return json.loads(text)

    def _more(self) -> bytes:
        if not (part := self._socket.recv(1 << 16)):
            raise FirefoxError(f"Firefox is gone ({self._process.poll()})")
        return part

    def command(self, name: str, **params: Any) -> Any:
        """The command's result. Raises FirefoxError, also if there is no answer within PATIENCE_S."""
        message = json.dumps([0, next(self._ids), name, params]).encode()
        self._socket.sendall(b"%d:%b" % (len(message), message))
        _, _, error, result = self._read(name)
        if error:
            raise FirefoxError(f"{name}: {error['error']}: {error['message']}")
        return result

    def new_tab(self) -> Tab:
        """Open an empty tab."""
        # This tab is never closed.
        self.command("WebDriver:SwitchToWindow", handle=self._first, focus=False)
        handle = self.command("WebDriver:NewWindow", type="tab")["handle"]
        return Tab(self, handle)

    def in_chrome(self, script: str) -> Any:
        """The result of a script in the browser's own context."""
        self.command("Marionette:SetContext", value="chrome")
        try:
            return self.command("WebDriver:ExecuteScript", script=script, args=[])["value"]
        finally:
            self.command("Marionette:SetContext", value="content")

    def quit(self) -> None:
        """Quit as a user does, so that Firefox writes its data to disk."""
        self.command("Marionette:Quit", flags=["eAttemptQuit"])
        self._process.wait(PATIENCE_S)


class Tab:
    """One tab. Its methods have the names of those of Playwright's Page."""

    def __init__(self, browser: Browser, handle: str) -> None:
        self.browser = browser
        self._handle = handle
        self._ids = itertools.count(1)

    def _command(self, name: str, **params: Any) -> Any:
        self.browser.command("WebDriver:SwitchToWindow", handle=self._handle, focus=False)
        return self.browser.command(name, **params)

    def goto(self, url: str) -> None:
        """Load an address, and wait for its load event."""
        self._command("WebDriver:Navigate", url=url)

    def evaluate(self, script: str, argument: Any = None) -> Any:
        """The value of an expression, or of a function called with `argument`; promises are awaited. Arguments and
        results pass as JSON."""
        name = next(self._ids)
        given = [name, script, json.dumps(argument)]
        self._command("WebDriver:ExecuteScript", script=BEGIN, args=given, sandbox=None)
        deadline = time.monotonic() + PATIENCE_S
        while not (
            text := self._command("WebDriver:ExecuteScript", script=TAKE, args=[name])["value"]
        ):
            if time.monotonic() > deadline:
                raise FirefoxError(f"nothing came within {PATIENCE_S:g} s of: {script}")
            time.sleep(0.02)
        answer = json.loads(text)
        if "error" in answer:
            raise FirefoxError(f"{answer['error']} in: {script}")
        return answer["value"]

    def until(self, script: str, timeout: float = PATIENCE_S) -> Any:
        """Evaluate the script again and again until it gives a true value; returns that value."""
        deadline = time.monotonic() + timeout
        while not (found := self.evaluate(script)):
            if time.monotonic() > deadline:
                raise FirefoxError(f"not within {timeout:g} s: {script}")
            time.sleep(0.1)
        return found

    def close(self) -> None:
        """Close the tab."""
        self._command("WebDriver:CloseWindow")


@contextlib.contextmanager
def running(firefox: Firefox, profile: Path) -> Iterator[Browser]:
    """A new process on a profile folder. At the end of the block it is dead."""
    log = profile.with_name(profile.name + ".log")
    (profile / PORT_FILE).unlink(missing_ok=True)
    arguments = ["--marionette", "--remote-allow-system-access", "about:blank"]
    process = firefox.start(profile, arguments, log, {"marionette.port": "0"})
    try:
        port = listening(process, profile / PORT_FILE, log)
        with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S) as connection:
            yield Browser(process, connection)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def listening(process: subprocess.Popen[bytes], file: Path, log: Path) -> int:
    """The port, once Firefox listens there. Raises FirefoxError."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        with contextlib.suppress(OSError, ValueError):
            return int(file.read_text())
        if process.poll() is not None or time.monotonic() > deadline:
            words = log.read_text(errors="replace")[-2000:]
            raise FirefoxError(f"Firefox does not listen ({process.poll()}):\n{words}")
        time.sleep(0.1)
