"""How long weights take from this device's store to the GPU, beside what their bytes alone take.

The first load of a model fetches it. Then, in turn: `bytes_s` reads every slice of the store, uploads it and waits, and
nothing else; `load_s` is a warm load, with layout kernels and checksums. Nothing is compiled but what loading needs.
"""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from typing import Any

from py_engine.abort import Abort
from py_engine.graph.kernels import Kernels
from py_engine.host.gpu import Gpu
from py_engine.host.io import Io
from py_engine.models import build_model
from py_engine.version import VERSION
from py_engine.weights.cache import open_kept
from py_engine.weights.config import quantization, read_config
from py_engine.weights.hub import Repository, open_repository
from py_engine.weights.jobs import Job
from py_engine.weights.keeping import Note
from py_engine.weights.loader import SLICE_BYTES, Loader, cut
from py_engine.weights.mlx_quant import quantization_of
from py_engine.weights.safetensors import read_tensors
from py_engine.weights.store import WeightStore


async def bench_load(address: str, gpu: Gpu, io: Io, runs: int, note: Note) -> dict[str, Any]:
    """Of `address` (a hub's id or a folder), after a load that fetches what is not kept: seconds of `runs` pairs,
    `ratio` of their best ones. Raises what a load raises."""
    kernels = Kernels(gpu)
    load = partial(_once, address, gpu, kernels, io, note)
    first_s, nbytes, local = await load(alone=False)
    pairs = [[(await load(alone=alone))[0] for alone in (True, False)] for _ in range(runs)]
    alone, loads = ([round(pair[i], 4) for pair in pairs] for i in (0, 1))
    return {
        "version": VERSION,
        "model": address,
        "bytes": nbytes,
        "kept_before": local,
        "first_s": round(first_s, 4),
        "bytes_s": alone,
        "load_s": loads,
        "ratio": round(min(loads) / min(alone), 3),
        "adapter": asdict(gpu.info),
    }


async def _once(
    address: str, gpu: Gpu, kernels: Kernels, io: Io, note: Note, *, alone: bool
) -> tuple[float, int, bool]:
    """(seconds, bytes of the jobs, whether they were kept already)."""
    repository = await open_repository(address, io, partial(open_kept, note=note))
    try:
        config = await read_config(repository)
        tensors = await read_tensors(repository)
        quantised = quantization_of(tensors, quantization(config))
        family = str(config["model_type"])
        store = WeightStore(gpu, tensors, quantised, form="stored", family=family)
        try:
            build_model(config, store)
            await gpu.idle()
            began = io.now()
            if alone:
                await _bytes_alone(gpu, repository, store.jobs)
            else:
                await Loader(gpu, kernels, repository, lambda _: None, Abort()).run(store.jobs)
            took = io.now() - began
            if not alone:
                await repository.commit()
            return took, sum(job.end - job.start for job in store.jobs), repository.local
        finally:
            await kernels.settle()
            store.release()
    finally:
        await repository.close()


async def _bytes_alone(gpu: Gpu, repository: Repository, jobs: list[Job]) -> None:
    """Read the slices of a load and upload them into two buffers that take turns."""
    scratch = [gpu.create_buffer(f"scratch {i}", SLICE_BYTES) for i in range(2)]
    for i, piece in enumerate(cut(jobs)):
        data = await repository.read(piece.file, piece.start, piece.end)
        await gpu.idle()
        whole = repository.io.nbytes(data) & ~3
        gpu.write(scratch[i % 2], 0, repository.io.slice(data, 0, whole))
    await gpu.idle()
    for buffer in scratch:
        gpu.destroy_buffer(buffer)
