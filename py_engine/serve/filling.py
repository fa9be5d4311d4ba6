"""Fills the buffers of a model's weights, from files or from a hash, and tells how far that is."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from py_engine.abort import Abort
from py_engine.graph.kernels import Kernels
from py_engine.graph.submit import SubmitStrategy
from py_engine.host.gpu import Gpu
from py_engine.serve.options import Progress
from py_engine.sources.repository import Repository
from py_engine.weights.loader import Loader
from py_engine.weights.random import RandomStore
from py_engine.weights.store import WeightStore


async def fill(
    stores: Sequence[WeightStore],
    repository: Repository | None,
    gpu: Gpu,
    kernels: Kernels,
    strategy: SubmitStrategy,
    tell: Callable[[Progress], object],
    abort: Abort,
) -> int:
    """Fill the buffers of all stores. Returns the most bytes of weights that the host held at a time."""
    jobs = []
    for store in stores:
        if isinstance(store, RandomStore):
            await store.fill(kernels, abort, strategy)
        jobs += store.jobs
    if repository is None:
        return 0
    loaded = 0
    here = repository.local and repository.kept
    message = "Reading weights kept on this device" if here else ""

    def count(n: int) -> None:
        nonlocal loaded
        loaded += n
        tell(Progress("weights", min(loaded, loader.total), loader.total, message))

    loader = Loader(gpu, kernels, repository, count, abort, strategy)
    await loader.run(jobs)
    tell(Progress("weights", loader.total, loader.total, message))
    return loader.peak_bytes
