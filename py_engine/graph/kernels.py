"""Compiles kernels: WGSL source, libraries and override constants become a pipeline, which is cached."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from functools import cache
from importlib.resources import files
from pathlib import Path

from py_engine.graph.trace import Kernel
from py_engine.host.gpu import Gpu, Pipeline


@cache
def shader_source(path: str) -> str:
    """The text of `shaders/<path>`. The folder is inside the package in a wheel, and beside it in a checkout."""
    packed = files("py_engine").joinpath("shaders", path)
    if packed.is_file():
        return packed.read_text(encoding="utf-8")
    return (Path(__file__).parents[2] / "shaders" / path).read_text(encoding="utf-8")


def assemble(kernel: Kernel) -> str:
    """The text of the kernel's libraries, then of its file. The host puts its enable lines before it."""
    parts = [shader_source(f"lib/{name}.wgsl") for name in kernel.uses]
    return "\n".join([*parts, shader_source(f"{kernel.stem}.wgsl")])


def kernels_of(gpu: Gpu) -> Kernels:
    """The pipelines of a GPU: compiled once for all models that are loaded onto it, one after another too."""
    if not isinstance(gpu.kernels, Kernels):
        gpu.kernels = Kernels(gpu)
    return gpu.kernels


class Kernels:
    """The pipelines of one device, one for each Kernel. All models of the device share them."""

    def __init__(self, gpu: Gpu) -> None:
        self._gpu = gpu
        self._pipelines: dict[Kernel, asyncio.Task[Pipeline]] = {}
        self._compiled = 0
        self._listeners: list[Callable[[int, int], object]] = []

    def start(self, kernels: Iterable[Kernel]) -> None:
        """Begin to compile, so that it happens during other work (while weights stream in)."""
        for kernel in kernels:
            if kernel not in self._pipelines:
                self._pipelines[kernel] = asyncio.ensure_future(self._compile(kernel))

    async def pipeline(self, kernel: Kernel) -> Pipeline:
        """The compiled pipeline. Raises HostError naming the kernel when it does not compile."""
        self.start([kernel])
        return await self._pipelines[kernel]

    async def ready(self, kernels: Iterable[Kernel], timeout_s: float) -> set[Kernel]:
        """Those kernels that have compiled after this time. Others are still compiling, or have failed."""
        wanted = set(kernels)
        self.start(wanted)
        if compiling := self._compiling(wanted):
            await asyncio.wait(compiling, timeout=timeout_s)
        return {
            k
            for k in wanted
            if (t := self._pipelines[k]).done() and not t.cancelled() and t.exception() is None
        }

    async def compiled(self, tell: Callable[[int, int], object]) -> None:
        """Wait for all that were begun. Calls `tell(number done, number in all)`. Errors are raised by `pipeline`."""
        tell(self._compiled, len(self))
        self._listeners.append(tell)
        try:
            await self.settle()
        finally:
            self._listeners.remove(tell)

    async def settle(self) -> None:
        """Wait until nothing compiles any more; errors are ignored. Needed before the device is closed."""
        await asyncio.gather(*self._compiling(self._pipelines), return_exceptions=True)

    async def forget_failed(self) -> None:
        """Settle, and forget kernels that failed, so that they are tried again when the next model needs them."""
        await self.settle()
        for kernel, task in [*self._pipelines.items()]:
            if task.done() and (task.cancelled() or task.exception()):
                del self._pipelines[kernel]

    def __len__(self) -> int:
        return len(self._pipelines)

    def _compiling(self, kernels: Iterable[Kernel]) -> list[asyncio.Task[Pipeline]]:
        """The tasks that are not done. Those that are may belong to an event loop that has ended."""
        return [t for k in kernels if not (t := self._pipelines[k]).done()]

    async def _compile(self, kernel: Kernel) -> Pipeline:
        code = self._gpu.enable_lines(kernel.features) + "\n" + assemble(kernel)
        pipeline = await self._gpu.create_pipeline(kernel.label, code, dict(kernel.constants))
        self._compiled += 1
        for tell in self._listeners:
            tell(self._compiled, len(self))
        return pipeline
