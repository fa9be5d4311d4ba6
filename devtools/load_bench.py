"""How long weights take from this device's store to the GPU, beside what the bytes alone take.

    python -m devtools.load_bench FOLDER [--host dawn|wgpu] [--runs 3]

FOLDER is a checkpoint, ORGANISATION/NAME at the end of its path. A local hub serves it to a fresh store; then, in turn:
`bytes_s` reads every slice of the store and uploads it, two in flight, and waits; `load_s` is a warm load, with layout
kernels and checksums. Nothing is compiled but what loading needs. One JSON object on stdout, seconds of each run.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

from devtools.page_server import PageServer
from devtools.site import Site
from py_engine.abort import Abort
from py_engine.graph.kernels import Kernels
from py_engine.host import open_gpu, open_io
from py_engine.host.gpu import Gpu
from py_engine.host.io import Io
from py_engine.models import build_model
from py_engine.weights.cache import open_kept
from py_engine.weights.config import quantization, read_config
from py_engine.weights.hub import Repository, open_repository
from py_engine.weights.jobs import Job
from py_engine.weights.loader import SLICE_BYTES, Loader, cut
from py_engine.weights.mlx_quant import quantization_of
from py_engine.weights.safetensors import read_tensors
from py_engine.weights.store import WeightStore


async def bytes_alone(gpu: Gpu, repository: Repository, jobs: list[Job]) -> float:
    """Seconds to read the slices of a load and upload them into two scratch buffers."""
    scratch = [gpu.create_buffer(f"scratch {i}", SLICE_BYTES) for i in range(2)]
    await gpu.idle()
    began = time.perf_counter()
    for i, piece in enumerate(cut(jobs)):
        data = await repository.read(piece.file, piece.start, piece.end)
        await gpu.idle()
        whole = repository.io.nbytes(data) & ~3
        gpu.write(scratch[i % 2], 0, repository.io.slice(data, 0, whole))
    await gpu.idle()
    took = time.perf_counter() - began
    for buffer in scratch:
        gpu.destroy_buffer(buffer)
    return took


async def once(
    address: str, gpu: Gpu, kernels: Kernels, io: Io, *, alone: bool
) -> tuple[float, int, bool]:
    """(seconds, bytes of the jobs, whether they were kept already)."""
    say = partial(print, file=sys.stderr)
    repository = await open_repository(address, io, partial(open_kept, note=say))
    try:
        config = await read_config(repository)
        tensors = await read_tensors(repository)
        quantised = quantization_of(tensors, quantization(config))
        family = str(config["model_type"])
        store = WeightStore(gpu, tensors, quantised, form="stored", family=family)
        try:
            build_model(config, store)
            await gpu.idle()
            began = time.perf_counter()
            if alone:
                took = await bytes_alone(gpu, repository, store.jobs)
            else:
                await Loader(gpu, kernels, repository, lambda _: None, Abort()).run(store.jobs)
                took = time.perf_counter() - began
                await repository.commit()
            total = sum(job.end - job.start for job in store.jobs)
            return took, total, repository.local
        finally:
            await kernels.settle()
            store.release()
    finally:
        await repository.close()


async def measure(address: str, host: str | None, runs: int) -> dict[str, Any]:
    """A cold load, then `runs` pairs."""
    gpu, io = await open_gpu(host), open_io()
    kernels = Kernels(gpu)
    try:
        cold, total, _ = await once(address, gpu, kernels, io, alone=False)
        pairs = [
            [(await once(address, gpu, kernels, io, alone=alone))[0] for alone in (True, False)]
            for _ in range(runs)
        ]
        return {
            "adapter": vars(gpu.info),
            "bytes": total,
            "cold_s": cold,
            "bytes_s": [pair[0] for pair in pairs],
            "load_s": [pair[1] for pair in pairs],
            "ratio": min(pair[1] for pair in pairs) / min(pair[0] for pair in pairs),
        }
    finally:
        io.close()
        gpu.close()


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--host", choices=("dawn", "wgpu"))
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()
    folder = options.folder.resolve()
    with (
        PageServer(Site(models=folder.parent.parent)) as server,
        tempfile.TemporaryDirectory() as stores,
    ):
        os.environ["HF_ENDPOINT"] = server.url + "models"
        os.environ["HF_HUB_CACHE"] = stores
        address = f"{folder.parent.name}/{folder.name}"
        print(json.dumps(asyncio.run(measure(address, options.host, options.runs))))


if __name__ == "__main__":
    main()
