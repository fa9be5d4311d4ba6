"""./dev run: serves the page, opens it, and finds or fetches models for it in the background."""

from __future__ import annotations

import argparse
import errno
import os
import signal
import sys
import threading
import webbrowser
from pathlib import Path

from devtools.offers import Offers, say
from devtools.page_server import PageServer
from devtools.site import HUB, Site

# The rows of the page /diagnostics, one a line.
ROWS = Path(__file__).parents[1] / ".cache" / "diagnostics.jsonl"
FIRST_PORT = 8000
PORTS_TRIED = 20

LOOK_S = 4.0  # the longest wait for the hub's list of models before the address is printed


def open_server(site: Site, port: int | None) -> PageServer:
    """Open the server on `port`, or on the first free port from FIRST_PORT. Raises OSError."""
    ports = range(FIRST_PORT, FIRST_PORT + PORTS_TRIED) if port is None else [port]
    for candidate in ports:
        try:
            return PageServer(site, candidate, rows=ROWS)
        except OSError as error:
            if error.errno != errno.EADDRINUSE or candidate == ports[-1]:
                raise
    raise AssertionError("unreachable: the last candidate raised")


def has_display() -> bool:
    """Tell whether a browser window can open here (webbrowser would start a text browser in this terminal
    instead)."""
    if sys.platform != "linux":
        return True
    return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def main() -> int:
    """Serve until Ctrl-C."""
    parser = argparse.ArgumentParser(prog="./dev run", description=__doc__)
    parser.add_argument("--port", type=int, help=f"default: the first free one from {FIRST_PORT}")
    parser.add_argument("--no-open", action="store_true", help="do not open a browser")
    arguments = parser.parse_args()
    hub = os.environ.get("HF_ENDPOINT", HUB).rstrip("/")
    site = Site(hub=hub)
    try:
        server = open_server(site, arguments.port)
    except OSError as error:
        say(
            f"cannot listen on port {arguments.port or FIRST_PORT}: {error.strerror}. Try --port N."
        )
        return 1
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    offers = Offers(site)
    with server:
        try:
            offers.start(LOOK_S)
            print(server.url, flush=True)
            say("Open it in a browser with WebGPU (Chrome, Edge, Safari 26, Firefox). Ctrl-C ends.")
            offers.fetch()
            if not arguments.no_open and has_display():
                webbrowser.open(server.url)
            threading.Event().wait()
        except KeyboardInterrupt:
            pass
        finally:
            offers.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main())
