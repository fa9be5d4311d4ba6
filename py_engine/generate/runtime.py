"""What every model that runs has, whatever it computes: its passes on one GPU, traced, checked and planned."""

from __future__ import annotations

import abc
from collections.abc import Iterable, Sequence

from py_engine.checks.self_check import SelfCheck
from py_engine.checks.tunings import Forms
from py_engine.graph.kernels import Kernels
from py_engine.graph.programs import Features, Program, Programs
from py_engine.graph.submit import SubmitStrategy, default_strategy
from py_engine.host.gpu import Gpu
from py_engine.ops.matmul import ROUNDING


class Runtime(abc.ABC):
    """A model that runs, with its programs. They are traced first, then checked, then planned."""

    def __init__(
        self,
        gpu: Gpu,
        kernels: Kernels,
        programs: Sequence[Program],
        chains: Iterable[tuple[str, ...]] = (),
        *,
        exact: bool,
        strategy: SubmitStrategy | None,
        forms: Forms | None,
    ) -> None:
        """`exact`: use no kernels that round activations (ROUNDING in ops/matmul.py). `forms`: forms of kernels that
        were measured on this device (checks/tunings.py); the ops choose the others."""
        self.gpu = gpu
        self._kernels = kernels
        self.programs = Programs(
            gpu,
            kernels,
            programs,
            chains,
            strategy=strategy or default_strategy(),
            features=gpu.features - (ROUNDING if exact else frozenset()),
            forms=forms or {},
        )

    @property
    def strategy(self) -> SubmitStrategy:
        """How its plans are submitted. May be set while nothing runs."""
        return self.programs.strategy

    @strategy.setter
    def strategy(self, strategy: SubmitStrategy) -> None:
        self.programs.strategy = strategy

    @abc.abstractmethod
    def memory(self) -> dict[str, int]:
        """GPU bytes by kind, without the weights."""

    @abc.abstractmethod
    def release(self) -> None:
        """Free every buffer but the weights, which belong to whoever loaded them."""

    def trace(self, without: Features = frozenset()) -> None:
        """Write down every pass and start to compile its kernels. The weights need not be there yet. It may be called
        again before `plan`; kernels then do `without` these features for good. Raises OutOfMemoryError."""
        self.programs.trace(without)

    def self_check(self) -> SelfCheck:
        """The check of the traced pipelines, once the weights are there. Passes that fail are traced again."""
        return SelfCheck(
            self.gpu, self._kernels, self.strategy, lambda: self.programs.calls, self.trace
        )

    async def plan(self) -> None:
        """Make the buffers and plans. Raises HostError naming the kernel or buffer that the device refused."""
        await self.programs.plan()
