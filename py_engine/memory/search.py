"""Finds the vectors nearest to a query: on the CPU where there are few, else on the GPU."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from py_engine.graph.kernels import kernels_of
from py_engine.host import IN_BROWSER
from py_engine.host.gpu import Gpu
from py_engine.memory.gpu_search import GpuSearch
from py_engine.memory.namespace import Namespace
from py_engine.memory.vectors import FewVectors, Scored
from py_engine.tasks.loaded import Loaded

# Products that the CPU makes in about the time of a round trip to the GPU. CPython: 0.03 us each, some 0.4 ms. Pyodide:
# up to 0.4 us each, 2.5 ms.
CPU_PRODUCTS = 1 << 12 if IN_BROWSER else 1 << 14


class VectorSearch:
    """The vectors of one namespace, where they are searched. `place`: "cpu" or "gpu", where the last search was."""

    def __init__(self, namespace: Namespace, note: Callable[[str], object]) -> None:
        self._namespace, self._note = namespace, note
        self._few: FewVectors | None = None
        self._many: GpuSearch | None = None
        self._gpu_wrong = False
        self._generation = namespace.generation
        self.place = "cpu"

    async def find(
        self, gpu: Gpu, loaded: Loaded, query: Sequence[float], count: int, also: Sequence[int]
    ) -> tuple[list[Scored], list[Scored]]:
        """(the best `count` live rows, the scores of the live rows `also`). Raises HostError, StorageError."""
        space = self._namespace
        width = space.identity.dimensions
        if self._generation != space.generation:  # rows have other numbers
            self.release()
            self._generation = space.generation
        if self._many is not None and self._many.gpu is not gpu:
            self._drop_gpu()  # lost with its device
        if len(space.records) * width > CPU_PRODUCTS and not self._gpu_wrong:
            self._few = None
            if self._many is None:
                self._many = GpuSearch(gpu, kernels_of(gpu), loaded.runtime.strategy, width)
            many = self._many
            await many.fill(space)
            if loaded.checked is None or not (wrong := await many.wrong()):
                self.place = "gpu"
                return await many.best(query, count), await many.scores(also)
            self._gpu_wrong = True
            self._note(f"This GPU searches wrongly, so the CPU does it: {wrong}.")
            self._drop_gpu()
        self.place = "cpu"
        self._few = self._few or FewVectors(width)
        await self._few.fill(space)
        best = self._few.best(query, space.records, count)
        return best, self._few.scores(query, also)

    @property
    def nbytes(self) -> int:
        """GPU bytes."""
        return self._many.nbytes if self._many else 0

    def _drop_gpu(self) -> None:
        if self._many is not None:
            self._many.release()
            self._many = None

    def release(self) -> None:
        """Free everything."""
        self._few = None
        self._drop_gpu()
