"""A GPU that only adds up sizes. The code of a load runs on it to find what the load would take; nothing is
allocated."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, NoReturn

from py_engine.errors import HostError
from py_engine.host.gpu import (
    AdapterInfo,
    Binding,
    Buffer,
    BufferKind,
    Copy,
    DecodeLoop,
    Dispatch,
    Gpu,
    Limits,
    Pipeline,
    Recording,
    Upload,
)


class _Nothing:
    """Stands in for the handle of a real buffer."""

    def destroy(self) -> None:
        """Nothing to free."""


class CountingGpu(Gpu):
    """Buffers have a size but no bytes, pipelines and bind groups are only names, and nothing ever runs.

    `peak_bytes`: the highest value that `counters.live_bytes` ever had.
    """

    def __init__(
        self,
        info: AdapterInfo | None = None,
        limits: Limits | None = None,
        features: frozenset[str] = frozenset(),
    ) -> None:
        """By default it is an unknown GPU with WebGPU's default limits, those of the smallest device."""
        super().__init__(info or AdapterInfo(), limits or Limits(), features)
        self.peak_bytes = 0

    @classmethod
    def like(cls, gpu: Gpu) -> CountingGpu:
        """A counting GPU with the limits and features of `gpu`, so that kernels are chosen and weights are cut as on
        that."""
        return cls(gpu.info, gpu.limits, gpu.features)

    @property
    def lost(self) -> str | None:
        """There is no device to lose."""
        return None

    def enable_lines(self, features: frozenset[str]) -> str:
        """No lines: nothing is compiled here."""
        return ""

    def _make_buffer(self, label: str, size: int, kind: BufferKind) -> Any:
        self.peak_bytes = max(self.peak_bytes, self.counters.live_bytes + size)
        return _Nothing()

    def write(self, buffer: Buffer, offset: int, data: Any) -> None:
        """Does nothing: buffers hold no bytes here."""

    def write_parts(self, data: Any, uploads: Sequence[Upload]) -> None:
        """Does nothing: buffers hold no bytes here."""

    async def copy(self, copies: Sequence[Copy]) -> None:
        """Does nothing: buffers hold no bytes here."""

    async def read(self, buffer: Buffer, offset: int = 0, nbytes: int | None = None) -> bytes:
        """Raises HostError: there is nothing to read."""
        self._refuse()

    async def download(self, buffer: Buffer, offset: int, nbytes: int) -> Any:
        """Raises HostError: there is nothing to read."""
        self._refuse()

    async def create_pipeline(
        self, label: str, code: str, constants: Mapping[str, float]
    ) -> Pipeline:
        """A pipeline that is only a name."""
        return Pipeline(label, None)

    def bind_group(self, label: str, pipeline: Pipeline, bindings: Sequence[Binding]) -> Any:
        """None."""

    def record(
        self, command_buffers: Sequence[Sequence[Sequence[Dispatch]]], await_each: bool
    ) -> Recording:
        """A recording of the list as it is."""
        return Recording(command_buffers, await_each)

    async def replay(self, recording: Recording) -> None:
        """Raises HostError: nothing runs here."""
        self._refuse()

    async def time_passes(self, recording: Recording, repeats: int = 1) -> list[tuple[int, int]]:
        """Raises HostError: nothing runs here."""
        self._refuse()

    def decode_loop(
        self,
        recording: Recording,
        result: Buffer,
        max_steps: int,
        depth: int,
        *,
        begun: bool = False,
    ) -> DecodeLoop:
        """Raises HostError: nothing runs here."""
        self._refuse()

    def fence(self) -> Callable[[], Awaitable[None]]:
        """Nothing runs here, so there is nothing to wait for."""
        return self.check

    async def check(self) -> None:
        """Does nothing: no error comes late here."""

    def close(self) -> None:
        """Nothing to free."""

    def _refuse(self) -> NoReturn:
        raise HostError("this GPU only counts sizes: open a real one to run a model")
