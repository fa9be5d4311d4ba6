"""Stores forms of kernels that were measured on this device, for later loads.

There is one small file for each adapter, in the store "tunings" (host/store.py). A file of another adapter, engine
version or layout is not used, nor one that is damaged.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import AsyncIterator, Hashable, Iterable, Mapping
from dataclasses import MISSING, asdict, fields
from typing import Any

from py_engine.errors import FormatError, StorageError
from py_engine.graph.trace import Call
from py_engine.host.gpu import Gpu
from py_engine.host.io import Io
from py_engine.host.json_text import parse_json
from py_engine.host.store import BlobStore
from py_engine.ops.gate import EPILOGUES
from py_engine.ops.matvec import MatvecTask, MatvecTuning, fits
from py_engine.version import VERSION

_LAYOUT = 1  # of the file

Forms = dict[Hashable, MatvecTuning]


def tuning_digest(calls: Iterable[Call]) -> str:
    """A digest of the forms of these calls. With equal digests kernels sum in the same order. For saved sessions."""
    labels = {f"{call.task}: {call.kernel.label}" for call in calls if call.task is not None}
    return hashlib.sha256("\n".join(sorted(labels)).encode()).hexdigest()[:16]


async def stored_forms(gpu: Gpu, io: Io) -> Forms:
    """The forms that earlier loads have measured on this adapter; empty when there are none."""
    try:
        async with _store(io) as store:
            data = io.to_bytes(await store.read(record_name(gpu)))
        return unpack(parse_json(data, "tunings"), gpu)
    except (StorageError, FileNotFoundError, FormatError, ValueError):
        return {}


async def store_forms(forms: Mapping[Hashable, MatvecTuning], gpu: Gpu, io: Io) -> None:
    """Store forms for later loads. It is no error when the store fails: then a later load measures again."""
    with contextlib.suppress(StorageError):
        async with _store(io) as store:
            await store.replace(record_name(gpu), json.dumps(pack(forms, gpu)).encode())


@contextlib.asynccontextmanager
async def _store(io: Io) -> AsyncIterator[BlobStore]:
    """The store, open only for a moment: in a browser an open file keeps other tabs out."""
    store = await io.open_store("tunings")
    try:
        yield store
    finally:
        await store.close()


def pack(forms: Mapping[Hashable, MatvecTuning], gpu: Gpu) -> dict[str, Any]:
    """The content of the file for these forms."""
    tasks = [(task, form) for task, form in forms.items() if isinstance(task, MatvecTask)]
    return {
        "layout": _LAYOUT,
        "engine": VERSION,
        "adapter": _adapter(gpu),
        "matvec": [{"task": asdict(task), "form": asdict(form)} for task, form in tasks],
    }


def unpack(data: Any, gpu: Gpu) -> Forms:
    """The forms of a file's content. Raises ValueError when it is damaged, or of another adapter or engine version."""
    if not isinstance(data, dict) or [data.get(k) for k in ("layout", "engine", "adapter")] != [
        _LAYOUT,
        VERSION,
        _adapter(gpu),
    ]:
        raise ValueError("tunings of another adapter or engine")
    entries = data.get("matvec")
    if not isinstance(entries, list):
        raise ValueError("no list of forms")
    forms: Forms = {}
    for entry in entries:
        if not isinstance(entry, dict):
            raise ValueError("an entry is no object")
        task = _build(MatvecTask, entry.get("task"))
        form = _build(MatvecTuning, entry.get("form"))
        if task.epilogue not in EPILOGUES or not fits(form, task.cols, gpu.features):
            raise ValueError(f"{form} does not fit {task}")
        forms[task] = form
    return forms


def _build(kind: type[Any], values: Any) -> Any:
    """Make a dataclass from plain values, each of its annotated type. Raises ValueError."""
    names = {f.name: f for f in fields(kind)}
    if not isinstance(values, dict) or set(values) != set(names):
        raise ValueError(f"not a {kind.__name__}: {values!r:.100}")
    for name, value in values.items():
        default = names[name].default
        wanted = type(default) if default is not MISSING else _PLAIN.get(str(names[name].type), str)
        if type(value) is not wanted:
            raise ValueError(f"{kind.__name__}.{name} is {value!r:.40}")
    return kind(**values)


_PLAIN = {"int": int, "bool": bool}  # annotated types; any other is a kind of str


def _adapter(gpu: Gpu) -> dict[str, Any]:
    """What distinguishes this adapter, and as far as is known its driver, from others."""
    return {**asdict(gpu.info), "features": sorted(gpu.features)}


def record_name(gpu: Gpu, version: str = "") -> str:
    """Name of the file for what was measured on this adapter, in any store of such records. `version`: of whatever else
    would make it invalid when updated."""
    key = json.dumps(_adapter(gpu), sort_keys=True) + version
    return hashlib.sha256(key.encode()).hexdigest()[:32] + ".json"
