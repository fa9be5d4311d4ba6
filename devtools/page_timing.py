"""./dev bench --page: how long after navigation the page can be used, and the engine behind it, in headless Chromium.

    cold   a profile that was never here: nothing cached, Pyodide boots from its files
    warm   the same profile again, once the first visit has left the page's files and a memory snapshot

Times are milliseconds from the start of the navigation to the page's own marks: `usable` (every button answers, set at
the end of app/main.py) and `engine` (Python runs in the worker). Prints one JSON object on one line: medians, and all
runs behind them. The machine must be quiet: a busy core doubles everything.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import sys
import tempfile
from typing import Any

from playwright.sync_api import BrowserContext, BrowserType, sync_playwright

from devtools.page_server import PageServer
from devtools.site import Site

# Without --enable-unsafe-webgpu a machine without a GPU has no adapter, and the page starts no engine.
FLAGS = [
    "--no-sandbox",
    "--no-first-run",
    "--disable-background-networking",
    "--enable-unsafe-webgpu",
]
MARKS = ("usable", "engine")
PATIENCE_MS = 120_000
WAIT = "name => performance.getEntriesByName(name).length > 0"
READ = "names => names.map(name => performance.getEntriesByName(name)[0].startTime)"


def visit(context: BrowserContext, url: str, first: bool) -> dict[str, float]:
    """One visit, in a tab of its own; a first one stays until the files and the snapshot are kept."""
    page = context.new_page()
    heard: list[str] = []
    page.on("console", lambda message: heard.append(message.text))
    page.goto(url)
    for name in MARKS:
        page.wait_for_function(WAIT, arg=name, timeout=PATIENCE_MS)
    times = dict(zip(MARKS, page.evaluate(READ, list(MARKS)), strict=True))
    if first:
        page.evaluate("navigator.serviceWorker.ready.then(() => true)")
    while first and not any("memory snapshot" in text for text in heard):
        page.wait_for_timeout(100)
    page.close()
    return times


def measure(chromium: BrowserType, url: str, runs: int, warm: int) -> dict[str, Any]:
    """`runs` fresh profiles, each visited once cold and `warm` times again: medians and all visits of each kind."""
    path = os.environ.get("JERBOA_CHROMIUM") or shutil.which("chromium")
    found: dict[str, list[dict[str, float]]] = {"cold": [], "warm": []}
    for _ in range(runs):
        with tempfile.TemporaryDirectory(prefix="jerboa-timing-") as profile:
            context = chromium.launch_persistent_context(profile, executable_path=path, args=FLAGS)
            found["cold"].append(visit(context, url, True))
            found["warm"] += [visit(context, url, False) for _ in range(warm)]
            context.close()
    return {kind: summary(visits) for kind, visits in found.items()}


def summary(visits: list[dict[str, float]]) -> dict[str, Any]:
    """{"usable_ms", "engine_ms": medians, "all": every visit's two times}."""
    medians = {f"{m}_ms": round(statistics.median(v[m] for v in visits)) for m in MARKS}
    return {**medians, "all": [[round(v[m]) for m in MARKS] for v in visits]}


def main(arguments: list[str]) -> int:
    """The command line; the exit status."""
    parser = argparse.ArgumentParser(prog="dev bench --page", description=__doc__)
    parser.add_argument("--runs", type=int, default=5, help="fresh profiles (default 5)")
    parser.add_argument("--warm", type=int, default=3, help="further visits of each (default 3)")
    asked = parser.parse_args(arguments)
    with PageServer(Site()) as server, sync_playwright() as playwright:
        found = measure(playwright.chromium, server.url, asked.runs, asked.warm)
    print(json.dumps({"load_average": round(os.getloadavg()[0], 2), **found}))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
