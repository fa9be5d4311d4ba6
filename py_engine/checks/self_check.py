"""Runs a model's own pipelines on known inputs on the user's own GPU, before the first answer.

A driver that computes wrongly gives wrong text without an error. When a kernel fails its check, the model is traced
again without an optional feature that the kernel used, the most special one first (for example with the KV cache in f32
when packed f16 fails), and new kernels are checked in turn. A kernel that fails without any optional feature is an
error. The checks themselves are in the other files of this folder.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from py_engine.blocks.kv_cache import F16_KV, Q8_KV
from py_engine.checks import distinct, make_check
from py_engine.checks.workbench import Bench, Check
from py_engine.errors import DeviceLostError, HostError, OutOfMemoryError, SelfCheckError
from py_engine.graph.kernels import Kernels
from py_engine.graph.submit import SubmitStrategy
from py_engine.graph.trace import Call, Kernel
from py_engine.host.gpu import Gpu

# Optional features, the first to give up first. Subgroup matrices need subgroups (ops/matmul.py).
OPTIONAL = ("subgroup-matrix", "dot4", "subgroups", "shader-f16", Q8_KV, F16_KV)


@dataclass(frozen=True)
class Wrong:
    """A kernel that gave wrong numbers. `dropped`: the feature without which the model was traced again."""

    check: str
    reason: str
    dropped: str

    def __str__(self) -> str:
        return f"{self.check} {self.reason}; going on without {self.dropped}"


@dataclass
class Outcome:
    """The result of a self-check. `wrong` is empty when every kernel was right."""

    checks: int = 0
    pipelines: int = 0  # how many were checked
    seconds: float = 0.0  # without the time to compile them
    wrong: list[Wrong] = field(default_factory=list)

    @property
    def dropped(self) -> frozenset[str]:
        """Features that this model does not use on this device, because their kernels failed."""
        return frozenset(w.dropped for w in self.wrong)

    def summary(self) -> dict[str, Any]:
        """The outcome as a plain dict."""
        return {
            "checks": self.checks,
            "pipelines": self.pipelines,
            "seconds": round(self.seconds, 4),
            "wrong": [str(w) for w in self.wrong],
            "dropped": sorted(self.dropped),
        }


def total(outcomes: Sequence[Outcome]) -> Outcome:
    """The outcome of several checks together."""
    return Outcome(
        sum(o.checks for o in outcomes),
        sum(o.pipelines for o in outcomes),
        sum(o.seconds for o in outcomes),
        [wrong for o in outcomes for wrong in o.wrong],
    )


class SelfCheck:
    """The checks of one model on one device. Its weights must be loaded."""

    def __init__(
        self,
        gpu: Gpu,
        kernels: Kernels,
        strategy: SubmitStrategy,
        calls: Callable[[], Iterable[Call]],
        retrace: Callable[[frozenset[str]], None],
    ) -> None:
        """`calls`: of all passes of the model, as traced now. `retrace`: traces them again without some features."""
        self._gpu, self._kernels, self._strategy = gpu, kernels, strategy
        self._calls, self._retrace = calls, retrace
        self._checked: set[tuple[Kernel, ...]] = set()

    async def run(self) -> Outcome:
        """Check every pipeline of the model. Raises SelfCheckError when one is wrong without any optional feature,
        DeviceLostError, OutOfMemoryError."""
        outcome = Outcome()
        while failed := await self._failures(outcome):
            for check, reason in failed:
                feature = next((f for f in OPTIONAL if f in _used(check)), None)
                if feature is None:
                    info = self._gpu.info
                    names = " ".join(filter(None, (info.vendor, info.device, info.description)))
                    raise SelfCheckError(
                        f"this GPU computes wrongly: {check.name} {reason}, and there is no plainer form of it. "
                        "Answers would be wrong, so the model was not loaded. Update the graphics driver or the "
                        f"browser, or use another GPU than this one ({names or 'unnamed'})."
                    )
                outcome.wrong.append(Wrong(check.name, reason, feature))
            self._retrace(outcome.dropped)
        return outcome

    async def _failures(self, outcome: Outcome) -> list[tuple[Check, str]]:
        """Run the checks of pipelines that were not checked yet. Returns those that fail, and what is wrong."""
        found = distinct(self._calls())
        new = {kinds: chain for kinds, chain in found.items() if kinds not in self._checked}
        self._checked |= new.keys()
        outcome.checks += len(new)
        outcome.pipelines = len({kind for kinds in self._checked for kind in kinds})
        failed: list[tuple[Check, str]] = []
        ready: list[list[Call]] = []
        for chain in new.values():
            try:
                for call in chain:
                    await self._kernels.pipeline(call.kernel)
            except DeviceLostError:
                raise
            except HostError as error:
                failed.append((Check(chain, str), f"does not run ({error})"))
            else:
                ready.append(chain)
        started = time.perf_counter()
        try:
            failed += await run_checks(self._gpu, self._kernels, self._strategy, ready)
        except (DeviceLostError, OutOfMemoryError):
            raise
        except HostError:  # then each is run alone, to find the one that fails
            for chain in ready:
                failed += await self._alone(chain)
        outcome.seconds += time.perf_counter() - started
        return failed

    async def _alone(self, chain: Sequence[Call]) -> list[tuple[Check, str]]:
        try:
            return await run_checks(self._gpu, self._kernels, self._strategy, [chain])
        except (DeviceLostError, OutOfMemoryError):
            raise
        except HostError as error:
            return [(Check(chain, str), f"does not run ({error})")]


def _used(check: Check) -> frozenset[str]:
    """Optional features that the kernels of a check use."""
    kinds = {call.kernel for call in check.calls}
    forms = {"kv_f16": F16_KV, "kv_f16_wide": F16_KV, "kv_q8": Q8_KV}
    packed = frozenset(forms[name] for kind in kinds for name in kind.uses if name in forms)
    return packed.union(*(kind.features for kind in kinds))


async def run_checks(
    gpu: Gpu, kernels: Kernels, strategy: SubmitStrategy, chains: Iterable[Sequence[Call]]
) -> list[tuple[Check, str]]:
    """Run the checks of these chains together. Returns those that fail, and what is wrong. Raises HostError."""
    bench = Bench(gpu)
    try:
        checks = [make_check(bench, chain) for chain in chains]
        if not checks:
            return []
        await bench.run(kernels, strategy)
        return [(check, reason) for check in checks if (reason := check.verify())]
    finally:
        bench.release()
