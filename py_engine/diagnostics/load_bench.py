"""Measures how long weights take from this device's store to the GPU, and how long their bytes alone take.

The first load of a model fetches it. Then two measurements take turns: `bytes_s` only reads every slice of the store,
uploads it and waits; `load_s` is a warm load, with layout kernels and checksums. Only what loading needs is compiled.
"""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from typing import Any

from py_engine.abort import Abort
from py_engine.diagnostics.load_parts import watched
from py_engine.graph.kernels import Kernels
from py_engine.host.gpu import Gpu
from py_engine.host.io import Io
from py_engine.kept.lock import Note
from py_engine.kept.opening import open_kept
from py_engine.models import build_model, sets_of
from py_engine.serve.loading import setting_of
from py_engine.serve.options import LoadOptions
from py_engine.sources.address import open_repository
from py_engine.sources.config import quantization, read_config
from py_engine.sources.jobs import Job
from py_engine.sources.repository import Repository
from py_engine.sources.safetensors import read_sets
from py_engine.version import VERSION
from py_engine.weights.loader import SLICE_BYTES, Loader, cut
from py_engine.weights.mlx_quant import quantization_of
from py_engine.weights.store import WeightStore


async def bench_load(
    address: str, gpu: Gpu, io: Io, runs: int, note: Note, dtype: str = "auto"
) -> dict[str, Any]:
    """Measure loads of `address` (a hub id or a folder) as `dtype`, after a load that fetches what is not kept. Returns
    the seconds of `runs` pairs, the `ratio` of the best ones, and the bytes that each reads; of the first load also
    what it waited for (load_parts.py). Raises as a load does."""
    kernels = Kernels(gpu)
    load = partial(_once, address, gpu, kernels, io, note, dtype)
    with watched(io, gpu) as parts:
        first_s, first_bytes, local = await load(alone=False)
    nbytes, pairs = first_bytes, []
    for _ in range(runs):
        alone_s, _, _ = await load(alone=True)
        load_s, nbytes, _ = await load(alone=False)
        pairs.append((alone_s, load_s))
    alone, loads = ([round(pair[i], 4) for pair in pairs] for i in (0, 1))
    return {
        "version": VERSION,
        "model": address,
        "dtype": dtype,
        "first_bytes": first_bytes,
        "bytes": nbytes,
        "kept_before": local,
        "first_s": round(first_s, 4),
        "first_parts": {part: round(seconds, 3) for part, seconds in parts.items()},
        "bytes_s": alone,
        "load_s": loads,
        "ratio": round(min(loads) / min(alone), 3),
        "adapter": asdict(gpu.info),
    }


async def _once(
    address: str, gpu: Gpu, kernels: Kernels, io: Io, note: Note, dtype: str, *, alone: bool
) -> tuple[float, int, bool]:
    """(seconds, bytes read, whether they were kept already)."""
    repository = await open_repository(address, io, partial(open_kept, note=note))
    try:
        config = await read_config(repository)
        tensors = await read_sets(repository, sets_of(config))
        quantised = quantization_of(tensors, quantization(config))
        family = str(config["model_type"])
        form = setting_of(LoadOptions(dtype=dtype), config, io).form
        store = WeightStore(gpu, tensors, quantised, form=form, family=family)
        try:
            build_model(config, store)
            await gpu.idle()
            began = io.now()
            if alone:
                nbytes = await _bytes_alone(gpu, repository, store.jobs)
                return io.now() - began, nbytes, repository.local
            loader = Loader(gpu, kernels, repository, lambda _: None, Abort())
            await loader.run(store.jobs)
            took = io.now() - began
            await repository.commit()
            return took, loader.total, repository.local
        finally:
            await kernels.settle()
            store.release()
    finally:
        await repository.close()


async def _bytes_alone(gpu: Gpu, repository: Repository, jobs: list[Job]) -> int:
    """Read the slices of a load and upload them into two buffers that take turns. Returns how many bytes that were."""
    if derived := await repository.expect(jobs):
        jobs = [step for job in jobs for step in derived.steps(job)]
    scratch = [gpu.create_buffer(f"scratch {i}", SLICE_BYTES) for i in range(2)]
    for i, piece in enumerate(cut(jobs)):
        data = await repository.read(piece.file, piece.start, piece.end)
        await gpu.idle()
        whole = repository.io.nbytes(data) & ~3
        gpu.write(scratch[i % 2], 0, repository.io.slice(data, 0, whole))
        repository.io.give_back(data)
    await gpu.idle()
    for buffer in scratch:
        gpu.destroy_buffer(buffer)
    return sum(job.end - job.start for job in jobs)
