"""Loads weights of a hub's model through the store onto a GPU, without compiling the model."""

from __future__ import annotations

from functools import partial

from py_engine.abort import Abort
from py_engine.graph.kernels import kernels_of
from py_engine.host.gpu import Buffer, Gpu
from py_engine.kept.opening import open_kept
from py_engine.models import build_model, sets_of
from py_engine.sources.address import open_repository
from py_engine.sources.config import quantization, read_config
from py_engine.sources.jobs import TensorInfo
from py_engine.sources.safetensors import read_sets
from py_engine.weights.formats import StorageForm
from py_engine.weights.loader import Loader
from py_engine.weights.mlx_quant import quantization_of
from py_engine.weights.store import WeightStore
from tests.hub_loads import FaultIo


class Filled:
    """A model's weights as they are on the GPU. `read`: bytes that the loader read; `kept`: what the repository
    reports at the end."""

    def __init__(self, io: FaultIo) -> None:
        self.contents: list[bytes] = []
        self.tensors: dict[str, TensorInfo] = {}
        self.job_bytes = 0
        self.read = 0
        self.total = 0
        self.uploaded = 0
        self.peak_bytes = 0
        self.kept: bool | None = None
        self.notes: list[str] = []
        self.io = io


async def fill(
    gpu: Gpu,
    address: str,
    form: StorageForm = "stored",
    io: FaultIo | None = None,
    notes: list[str] | None = None,
) -> Filled:
    """One load. `notes`: a list for what the load reports, also when it fails."""
    made = Filled(io or FaultIo())
    made.notes = made.notes if notes is None else notes
    io = made.io

    def count(n: int) -> None:
        made.read += n

    repository = await open_repository(address, io, partial(open_kept, note=made.notes.append))
    try:
        config = await read_config(repository)
        made.tensors = await read_sets(repository, sets_of(config))
        quantised = quantization_of(made.tensors, quantization(config))
        store = WeightStore(gpu, made.tensors, quantised, form=form, family="test")
        kernels = kernels_of(gpu)
        try:
            build_model(config, store)
            made.job_bytes = sum(job.end - job.start for job in store.jobs)
            before = gpu.counters.upload_bytes
            loader = Loader(gpu, kernels, repository, count, Abort())
            await loader.run(store.jobs)
            made.total, made.peak_bytes = loader.total, loader.peak_bytes
            made.uploaded = gpu.counters.upload_bytes - before
            await repository.commit()
            made.kept = repository.kept
            made.contents = [await gpu.read(buffer) for buffer in buffers(store)]
        finally:
            await kernels.settle()
            store.release()
        return made
    finally:
        await repository.close()
        io.close()


def buffers(store: WeightStore) -> list[Buffer]:
    """All buffers that a load fills."""
    found: dict[Buffer, None] = {}
    for job in store.jobs:
        for target in (job.target, job.scales):
            if target is not None and target.binding is not None:
                found[target.binding.buffer] = None
    return list(found)
