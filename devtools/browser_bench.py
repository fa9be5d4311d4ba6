"""./dev bench --browser MODEL: the engine's speed in headless Chromium, through the page's own worker.

Starts the page server and a Chromium, opens public/bench.html, receives the result by a POST on the loopback
interface and prints the object that `python -m py_engine bench MODEL --json` prints, on one line. Standard library
only, so that it also runs on a bare GPU machine with a Chromium. MODEL: a folder, a hub id (HF_ENDPOINT, HF_TOKEN
are passed on), random:PRESET.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import queue
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from devtools import firefox
from devtools.page_server import Handler, PageServer
from devtools.process_memory import ProcessMemory
from devtools.site import HUB, Site
from py_engine.diagnostics.tables import profile_text

BASE_FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--disable-background-timer-throttling",
    "--disable-renderer-backgrounding",
    "--enable-unsafe-webgpu",
)
# An NVIDIA GPU without a display. VK_DRIVER_FILES may have to name the driver's ICD file.
_NVIDIA = (
    "--disable-gpu-sandbox",
    "--ignore-gpu-blocklist",
    "--enable-features=Vulkan",
    "--use-angle=vulkan",
    "--disable-vulkan-surface",
)
PRESETS = {
    "plain": (),  # no flags; SwiftShader where there is no GPU
    "nvidia": (*_NVIDIA, "--enable-dawn-features=vulkan_enable_f16_on_nvidia,allow_unsafe_apis"),
    "nvidia-plain": _NVIDIA,  # without f16 and tensor units, as in a browser without flags
}


class BenchHandler(Handler):
    """The page server, which also receives the worker's messages."""

    messages: queue.Queue[dict[str, Any]] = queue.Queue()
    browser = ""  # the User-Agent of the browser that posts

    def handle(self) -> None:
        """Ignore lost connections: the browser is killed while they are open."""
        with contextlib.suppress(ConnectionError):
            super().handle()

    def do_POST(self) -> None:
        """Handle POST /bench/message."""
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        BenchHandler.browser = self.headers.get("User-Agent", "")
        self.messages.put(json.loads(body))
        self.send_response(204)
        self.end_headers()


def say(text: str) -> None:
    """Print a line to stderr; stdout is for the result."""
    print(text, file=sys.stderr, flush=True)


def browser_name(agent: str) -> str:
    """Return "Chromium 156, headless" for such a User-Agent."""
    for pattern, name in ((r"Firefox/(\d+)", "Firefox"), (r"Chrome/(\d+)", "Chromium")):
        if found := re.search(pattern, agent):
            return f"{name} {found[1]}, headless"
    return agent


def find_browser(asked: str, names: Sequence[str]) -> str:
    """Return a browser's path: `asked`, or the first of `names` that exists. Raises SystemExit when there is none."""
    tried = [asked] if asked else [name for name in names if name]
    for name in tried:
        if path := shutil.which(name):
            return path
    sys.exit(f"no browser: tried {', '.join(tried)}. Give one by --chromium PATH.")


def started(arguments: argparse.Namespace, profile: str, page: str) -> subprocess.Popen[bytes]:
    """Start the browser on `page` with an empty profile and its own process group; its stderr is a pipe."""
    if arguments.firefox is not None:
        if arguments.firefox:
            os.environ["JERBOA_FIREFOX"] = arguments.firefox
        try:
            return firefox.find().start(Path(profile), [page])
        except firefox.NoFirefox as reason:
            sys.exit(str(reason))
    return subprocess.Popen(
        chromium_command(arguments, profile, page),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )


def chromium_command(arguments: argparse.Namespace, profile: str, page: str) -> list[str]:
    """Return the command that starts Chromium on `page` with an empty profile."""
    chromium = find_browser(
        arguments.chromium, [os.environ.get("JERBOA_CHROMIUM", ""), "chromium", "google-chrome"]
    )
    flags = [*BASE_FLAGS, *PRESETS[arguments.preset], *arguments.flags.split()]
    if arguments.profile:
        flags.append(
            "--enable-webgpu-developer-features"
        )  # full timestamps, not in steps of 0.1 ms
    return [chromium, *flags, "--enable-logging=stderr", f"--user-data-dir={profile}", page]


def served_model(model: str) -> tuple[str, Path | None]:
    """Return (what the worker loads, the folder of models that the local hub serves; None if it is not local)."""
    folder = Path(model)
    if not model.startswith("random:") and (folder / "config.json").is_file():
        folder = folder.resolve()
        return f"{folder.parent.name}/{folder.name}", folder.parent.parent
    return model, None


def wait_for_result(limit_s: float, browser: subprocess.Popen[bytes]) -> dict[str, Any]:
    """Return the bench's answer, or an error message in the same form."""
    started = time.monotonic()
    while True:
        left = limit_s - (time.monotonic() - started)
        if left < 0:
            return {"error_type": "TimeoutError", "error": f"no result within {limit_s:g} s"}
        try:
            message = BenchHandler.messages.get(timeout=min(left, 1.0))
        except queue.Empty:
            if browser.poll() is not None:
                return {
                    "error_type": "HostError",
                    "error": f"the browser ended with {browser.returncode}",
                }
            continue
        status = message.get("status")
        if status == "error" or (status == "result" and message.get("id") == "bench"):
            return message
        if status != "result":
            say(f"[{time.monotonic() - started:.1f} s] {json.dumps(message)}")


def bench(arguments: argparse.Namespace) -> dict[str, Any]:
    """Run the bench once in a fresh profile; returns the worker's last message."""
    model, models = served_model(arguments.model)
    endpoint = os.environ.get("HF_ENDPOINT", HUB)
    site = Site(hub=endpoint) if models is None else Site(hub=endpoint, models=models)
    options = {k: getattr(arguments, k) for k in ("dtype", "context", "group", "passes", "tune")}
    server = PageServer(site)
    server.RequestHandlerClass = BenchHandler
    with server, tempfile.TemporaryDirectory(prefix="jerboa-bench-") as profile:
        env = {"HF_ENDPOINT": endpoint, "HF_TOKEN": os.environ.get("HF_TOKEN", "")}
        if models is not None:
            env["HF_ENDPOINT"] = server.url + "models"
        work = {
            "runtime": arguments.runtime,
            "env": {k: v for k, v in env.items() if v},
            "message": {
                "model": model,
                "prompt_tokens": arguments.prompt_tokens,
                "new_tokens": arguments.new_tokens,
                "runs": arguments.runs,
                "probe": arguments.probe,
                "profile": arguments.profile,
                "load": arguments.load,
                "sampling": {
                    k: getattr(arguments, k)
                    for k in ("temperature", "top_k", "top_p", "presence_penalty")
                    if getattr(arguments, k) is not None
                },
                "options": {k: v for k, v in options.items() if v is not None},
            },
        }
        page = f"{server.url}bench.html#{urllib.parse.quote(json.dumps(work))}"
        browser = started(arguments, profile, page)
        memory = ProcessMemory(browser.pid)
        told: list[str] = []
        threading.Thread(
            target=_listen, args=(browser, told, arguments.verbose), daemon=True
        ).start()
        try:
            message = wait_for_result(arguments.timeout, browser)
            if "error" in message:
                say("\n".join(["the browser's last words:", *told[-15:]]))
            return message | {"process_mb": memory.stop()}
        finally:
            os.killpg(browser.pid, signal.SIGKILL)
            browser.wait()


def _listen(browser: subprocess.Popen[bytes], told: list[str], verbose: bool) -> None:
    """Read what the browser prints, so that its pipe never fills."""
    assert browser.stderr
    for line in browser.stderr:
        text = line.decode(errors="replace").rstrip()[:400]
        if "dbus" in text:  # headless machines have no dbus, and every Chromium complains
            continue
        told.append(text)
        del told[:-200]
        if verbose:
            say(f"browser: {text}")


def main(arguments: list[str]) -> int:
    """Run the command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="dev bench --browser", description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--prompt-tokens", type=int, default=512)
    parser.add_argument("--new-tokens", type=int, default=128)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument(
        "--tune", action=argparse.BooleanOptionalAction, help="measure the forms of kernels first"
    )
    parser.add_argument("--probe", action="store_true", help="also the memory bandwidth")
    parser.add_argument("--profile", action="store_true", help="also the time of each kernel")
    parser.add_argument(
        "--load", action="store_true", help="instead: a warm load, beside its bytes alone"
    )
    parser.add_argument("--temperature", type=float, help="this and the next three: default greedy")
    parser.add_argument("--top-k", type=int)
    parser.add_argument("--top-p", type=float)
    parser.add_argument("--presence-penalty", type=float)
    parser.add_argument("--dtype", choices=("auto", "f16", "f32", "q8", "q4"))
    parser.add_argument("--context", type=int)
    parser.add_argument("--group", type=int)
    parser.add_argument("--passes", type=int)
    parser.add_argument("--json", action="store_true", help="a profile too, instead of its table")
    parser.add_argument(
        "--runtime", default="", help="a folder of .vendor/: py314 (default) or py27"
    )
    parser.add_argument("--chromium", default="", help="its path")
    parser.add_argument("--firefox", nargs="?", const="", help="Firefox instead, with its path")
    parser.add_argument("--preset", choices=sorted(PRESETS), default="plain", help="sets of flags")
    parser.add_argument("--flags", default="", help="more flags, separated by spaces")
    parser.add_argument("--timeout", type=float, default=600.0, help="seconds")
    parser.add_argument("--verbose", action="store_true", help="show what Chromium prints")
    parsed = parser.parse_args(arguments)
    message = bench(parsed)
    if "error" in message:
        told = {"type": message.get("error_type", "Error"), "message": message["error"]}
        print(json.dumps({"error": told}))
        return 1
    runtime = browser_name(BenchHandler.browser)
    value = message["value"] | {"runtime": runtime, "process_mb": message["process_mb"]}
    found = None if parsed.json else value.pop("profile", None)
    print(json.dumps(value))
    if found:
        print(profile_text(found))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
