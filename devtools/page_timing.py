"""`./dev bench --page [FOLDER]`: how soon after navigation the page and its engine are usable, in headless Chromium.

    cold   an empty profile: nothing cached, Pyodide boots from its files
    files  the same profile again without the memory snapshot: Pyodide boots from cached files
    warm   the same profile again, after an earlier visit has stored the page's files and a memory snapshot

Times are milliseconds from the start of the navigation to the page's own marks: `usable` (every button answers, set at
the end of app/main.py) and `engine` (Python runs in the worker). With FOLDER (a checkpoint with a tokenizer, whose
path ends with ORGANISATION/NAME) a question is sent as soon as the page is usable: `answer` is when the first
word of the answer is shown. In a cold visit the model is chosen and fetched first. Prints one JSON object on one line:
medians, and all runs. The machine must be idle: a busy core doubles the times.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from playwright.sync_api import BrowserContext, BrowserType, Page, sync_playwright

from devtools.browser_bench import PRESETS
from devtools.page_server import PageServer
from devtools.site import Site

# Without --enable-unsafe-webgpu a machine without a GPU has no adapter, and the page starts no engine.
FLAGS = [
    "--no-sandbox",
    "--no-first-run",
    "--disable-background-networking",
    "--enable-unsafe-webgpu",
]
MARKS = ["usable", "engine"]
PATIENCE_MS = 300_000
WAIT = "name => performance.getEntriesByName(name).length > 0"
READ = "names => names.map(name => performance.getEntriesByName(name)[0].startTime)"
ANSWERED = """() => {
  const text = document.querySelector('.message.answer:last-child .text');
  const thought = document.querySelector('.message.answer:last-child .thinking:not([hidden])');
  if (!text?.textContent && !thought) return false;
  performance.mark('answer');
  return true;
}"""
FORGET_SNAPSHOTS = """async () => {
  for (const name of await caches.keys()) if (name.startsWith('snapshot-')) await caches.delete(name);
}"""


def ask(page: Page, *, first: bool) -> None:
    """Send a question once the page is usable; on a first visit a model is chosen before that."""
    if first:
        page.click("#hero-picker button[type=submit]")
    page.fill("#prompt", "Why is the sky blue?")
    page.wait_for_function("document.body.dataset.model !== 'none'", timeout=PATIENCE_MS)
    page.press("#prompt", "Enter")
    page.wait_for_function(ANSWERED, timeout=PATIENCE_MS)
    page.press("#prompt", "Escape")


def visit(context: BrowserContext, url: str, kind: str, *, answer: bool) -> dict[str, float]:
    """Make one visit of a kind in its own tab. Returns when everything for the next visit is stored."""
    page = context.new_page()
    heard: list[str] = []
    page.on("console", lambda message: heard.append(message.text))
    page.goto(url)
    marks = MARKS + ["answer"] * answer
    page.wait_for_function(WAIT, arg=MARKS[0], timeout=PATIENCE_MS)
    if answer:
        page.wait_for_selector("body[data-config=ready]")
        ask(page, first=kind == "cold")
    page.wait_for_function(WAIT, arg=MARKS[1], timeout=PATIENCE_MS)
    times = dict(zip(marks, page.evaluate(READ, marks), strict=True))
    page.evaluate("navigator.serviceWorker.ready.then(() => true)")
    while kind != "warm" and not any("memory snapshot" in text for text in heard):
        page.wait_for_timeout(100)
    if kind == "cold":
        page.evaluate(FORGET_SNAPSHOTS)
    page.close()
    return times


def measure(
    chromium: BrowserType, url: str, options: argparse.Namespace, answer: bool
) -> dict[str, Any]:
    """Use fresh profiles, each visited once cold, once without its snapshot and once with it; returns medians and all
    visits."""
    path = options.chromium or os.environ.get("JERBOA_CHROMIUM") or shutil.which("chromium")
    flags = [*FLAGS, *PRESETS[options.preset]]
    found: dict[str, list[dict[str, float]]] = {"cold": [], "files": [], "warm": []}
    for _ in range(options.runs):
        with tempfile.TemporaryDirectory(prefix="jerboa-timing-") as profile:
            context = chromium.launch_persistent_context(profile, executable_path=path, args=flags)
            for kind in ["cold", "files"] + ["warm"] * options.warm:
                found[kind].append(visit(context, url, kind, answer=answer))
            context.close()
    return {kind: summary(visits) for kind, visits in found.items()}


def summary(visits: list[dict[str, float]]) -> dict[str, Any]:
    """Return {"usable_ms", "engine_ms", "answer_ms": medians, "all": every visit's times}."""
    marks = list(visits[0]) if visits else []
    medians = {f"{m}_ms": round(statistics.median(v[m] for v in visits)) for m in marks}
    return {**medians, "all": [[round(v[m]) for m in marks] for v in visits]}


def site_of(folder: str) -> Site:
    """Return the page offering only this checkpoint, or no model if `folder` is empty."""
    if not folder:
        return Site()
    path = Path(folder).resolve()
    model = {"id": f"{path.parent.name}/{path.name}", "kind": "chat", "endpoint": "local"}
    return Site(models=path.parent.parent, offered=[{**model, "label": path.name, "default": True}])


def main(arguments: list[str]) -> int:
    """Run the command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="dev bench --page", description=__doc__)
    parser.add_argument("folder", nargs="?", default="", help="a checkpoint to answer with")
    parser.add_argument("--runs", type=int, default=5, help="fresh profiles (default 5)")
    parser.add_argument("--warm", type=int, default=3, help="further visits of each (default 3)")
    parser.add_argument("--chromium", default="", help="its path")
    parser.add_argument("--preset", choices=sorted(PRESETS), default="plain", help="sets of flags")
    asked = parser.parse_args(arguments)
    with PageServer(site_of(asked.folder)) as server, sync_playwright() as playwright:
        found = measure(playwright.chromium, server.url, asked, bool(asked.folder))
    print(json.dumps({"load_average": round(os.getloadavg()[0], 2), **found}))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
