"""Requests to a hub: tried again where that can help, delayed as the hub asks, and refusals put in words.

`HF_ENDPOINT` names another hub than huggingface.co, and `HF_TOKEN` is sent to it (hub_settings.py). When a hub asks to
wait (rate_limit.py), the client waits, up to a bound.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from dataclasses import dataclass

from py_engine.errors import HubError
from py_engine.host.io import Io, Response, Sink, shown
from py_engine.sources.hub_settings import hub_settings
from py_engine.sources.rate_limit import wait_asked
from py_engine.sources.repository import html_advice

ATTEMPTS = 5
TIMEOUT_S = 30.0
FIRST_DELAY_S = 0.5  # doubles with each attempt, times a random factor in [0.5, 1.5)
MAX_DELAY_S = 8.0
MAX_WAIT_S = 330.0  # the most that a hub may ask for in all; its windows are 300 s long
STOP_S = 0.05  # between two looks at whether the caller wants a wait to end
RETRIED = frozenset({408, 425, 429, 500, 502, 503, 504})


@dataclass(frozen=True)
class Waiting:
    """What to do while the hub makes us wait: `note` gets a sentence about it, `check` raises when the caller wants to
    stop."""

    note: Callable[[str], None] = lambda _: None
    check: Callable[[], None] = lambda: None


SILENTLY = Waiting()


class HubClient:
    """GET requests to the hub. Each is tried `attempts` times; an attempt fails after `timeout_s` of silence."""

    def __init__(self, io: Io, attempts: int, timeout_s: float, waiting: Waiting) -> None:
        """Raises HubError for an HF_ENDPOINT or HF_TOKEN that cannot be used."""
        self._io = io
        self._settings = hub_settings(io)
        self.endpoint = self._settings.endpoint
        self.attempts = attempts
        self.timeout_s = timeout_s
        self._waiting = waiting
        self._noted_until = 0.0

    async def get(
        self,
        url: str,
        what: str,
        revision: str,
        accept: Callable[[Response], None],
        *,
        start: int | None = None,
        end: int | None = None,
        also: set[int] | None = None,
        on_bytes: Callable[[int], None] | None = None,
        sink: Sink | None = None,
    ) -> Response:
        """The answer to a GET of `url`, of bytes start..end (exclusive) where they are given.

        `what` and `revision` name in errors what was asked for. `accept` checks an answer with status 200, 206 or one
        of `also`. When it raises a HubError without a status, the request is tried again, as after a broken transfer.
        `on_bytes(n)` is told of each n bytes as they come, and of -n when a failed attempt's bytes are dropped.
        Raises HubError after `attempts` failures, or at once where another attempt cannot help.
        """
        delay, waited = FIRST_DELAY_S, 0.0
        for attempt in range(1, self.attempts + 1):
            counted = 0

            def count(n: int) -> None:
                nonlocal counted
                counted += n
                if on_bytes is not None:
                    on_bytes(n)

            wait = 0.0
            try:
                response = await self._io.fetch(
                    url,
                    self._settings.headers,
                    start,
                    end,
                    timeout_s=self.timeout_s,
                    on_bytes=count,
                    sink=sink,
                )
                if response.status in (200, 206) or response.status in (also or ()):
                    accept(response)
                    return response
                failure = self._refusal(response, what, revision)
                if response.status in RETRIED:
                    wait = wait_asked(response.headers, self._io.time())
            except HubError as error:
                failure = error
            if counted and on_bytes is not None:
                on_bytes(-counted)
            lasting = failure.status is not None and failure.status not in RETRIED
            if lasting or attempt >= (failure.attempts or self.attempts):
                break
            waited += wait
            if waited > MAX_WAIT_S:
                raise self._too_long(failure, wait)
            # One note for all requests that wait at the same time.
            if wait > MAX_DELAY_S and self._io.now() >= self._noted_until:
                self._noted_until = self._io.now() + wait / 2
                self._waiting.note(f"{self.endpoint} asks to wait {wait:.0f} s; going on then.")
            await self._sleep(max(wait, delay * random.uniform(0.5, 1.5)))
            delay = min(2 * delay, MAX_DELAY_S)
        if lasting or attempt == 1 or failure.attempts:
            raise failure
        text = f"{failure} (Gave up after {self.attempts} attempts.)"
        raise type(failure)(text, failure.status)

    async def _sleep(self, seconds: float) -> None:
        """Wait, unless the caller wants to stop."""
        sleeping = asyncio.ensure_future(self._io.sleep(seconds))
        try:
            while not sleeping.done():
                self._waiting.check()
                await asyncio.wait({sleeping}, timeout=STOP_S)
            await sleeping
        finally:
            sleeping.cancel()

    def _too_long(self, failure: HubError, wait: float) -> HubError:
        when = time.strftime("%H:%M:%S", time.gmtime(self._io.time() + wait))
        text = f"{failure} It asks to wait {wait:.0f} s more: try again at {when} UTC."
        return HubError(text, failure.status)

    def _refusal(self, response: Response, what: str, revision: str) -> HubError:
        """The error for a status other than success: what it means, and what to do."""
        status, code = response.status, response.headers.get("x-error-code", "")
        if status == 401 and code == "GatedRepo" or status == 403:
            text = "access is restricted; accept the model's terms on the hub and set HF_TOKEN"
        elif status == 401 and self._settings.headers:
            text = f"the hub refused {self._settings.what}, or there is no such repository"
        elif status == 401:
            text = "there is no such public repository; check the name, or set HF_TOKEN if it is private"
        elif status == 404 and code == "RevisionNotFound":
            text = f"there is no revision {revision}; leave out @{revision} or correct it"
        elif status == 404:
            text = "not found; check the name and revision"
        elif status == 407:
            text = "the proxy wants a user and password; give them in http_proxy"
        elif status == 416:
            text = "the file is shorter than its listing or header says; it was cut or changed on the hub"
        elif status == 429:
            text = "the hub asks to slow down; try again later"
            text += "" if self._settings.headers else ", or set HF_TOKEN"
        elif status >= 500:
            text = "the hub has trouble of its own; try again later"
        else:
            text = "an answer that was not expected here; check HF_ENDPOINT"
        return HubError(f"{what}: HTTP {status} from {shown(response.url)}: {text}.", status)


def refuse_html(response: Response, io: Io, where: str, name: str = "") -> None:
    """Raise HubError when a web page was served in the place of file `name`."""
    kind = response.headers.get("content-type", "")
    first = io.to_bytes(io.slice(response.body, 0, min(64, io.nbytes(response.body))))
    looks = first.lstrip()[:9].lower().startswith((b"<!doctype", b"<html"))
    if looks or (kind.startswith("text/html") and not name.endswith((".html", ".htm"))):
        raise HubError(
            f"{where}: {shown(response.url)} answered with a web page (HTTP {response.status}): "
            + html_advice(),
            response.status,
        )
