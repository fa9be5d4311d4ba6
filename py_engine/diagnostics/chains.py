"""Chains of dependent dispatches with a known result. They show what goes wrong in a submit, and at which dispatch.

In WebKit, dispatches inside one command buffer were seen to read zeros, or what a buffer held before. A chain shows
which of these happened, and how many links back the value was from.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from py_engine.graph.buffers import Buffers
from py_engine.graph.kernels import Kernels
from py_engine.graph.plan import Planner
from py_engine.graph.submit import SingleSubmit, SubmitStrategy
from py_engine.graph.trace import Access, Tensor, Trace, kernel
from py_engine.host.gpu import Dispatch, Gpu

PLACES = 1024  # words that a link reads and writes, spread over the buffer
SENTINEL = 0x45F30800  # the bits of 7777.0 as f32: what the buffers hold at the start
_FACTOR = 1664525
_INVERSE = pow(_FACTOR, -1, 1 << 32)
_WALK = 4  # how many links, from the end, have their inputs examined
_FIRST, _APART = (
    0x2545F491,
    0x9E3779B1,
)  # what the chain begins with, at its first place, and from place to place
_MORE = 40503  # first word of each further input


@dataclass(frozen=True)
class ChainSetting:
    """`nbytes`: of each of the two buffers. `pipelines`: how many take turns. `length`: dispatches. `bindings`: of each
    dispatch: 2, 4 or 6. `shared`: use workgroups of 256, which pass values through workgroup memory."""

    nbytes: int = 64 << 10
    pipelines: int = 8
    length: int = 32
    bindings: int = 4
    shared: bool = False


class Chain:
    """A chain on a device, made by `make` and freed by `release`. It can run many times."""

    def __init__(self, gpu: Gpu, setting: ChainSetting) -> None:
        self._gpu, self._setting = gpu, setting
        self._buffers = Buffers(gpu)

    @classmethod
    async def make(cls, gpu: Gpu, kernels: Kernels, setting: ChainSetting) -> Chain:
        """Make buffers and pipelines. When it raises OutOfMemoryError or HostError, nothing stays allocated."""
        self = cls(gpu, setting)
        try:
            await self._prepare(kernels)
        except BaseException:
            self.release()
            raise
        return self

    async def run(self, strategy: SubmitStrategy) -> str:
        """Run the chain. Says in words what is wrong with the result; "" if nothing."""
        gpu = self._gpu
        await gpu.replay(self._fill)
        await gpu.idle()
        await gpu.replay(gpu.record(strategy.cut(self._links), strategy.await_each))
        await gpu.idle()
        await gpu.replay(self._gather)
        data = await gpu.read(self._gathered.buffer, 0, 4 * PLACES)
        return self._verdict(memoryview(data).cast("I").tolist())

    def release(self) -> None:
        """Free the buffers."""
        self._buffers.release()

    async def _prepare(self, kernels: Kernels) -> None:
        s, gpu = self._setting, self._gpu
        words = s.nbytes // 4
        ends = [self._buffers.make(f"chain {i}", words, dtype="u32") for i in range(2)]
        more = self._buffers.make("chain more", 64, dtype="u32")
        self._gathered = self._buffers.make("chain gathered", PLACES, dtype="u32")
        await gpu.check()
        gpu.write(more.buffer, 0, _MORE.to_bytes(4, "little"))

        def trace() -> Trace:
            return Trace(1)

        fill, links, gather = trace(), trace(), trace()
        for end, first, apart in ((ends[0], _FIRST, _APART), (ends[1], SENTINEL, 0)):
            constants = {"VALUE": first, "FACTOR": apart}
            fill.call("fill", kernel("probe_fill", constants=constants), [(end, "w")], (16, 1, 1))
        threads = 256 if s.shared else 64
        uses = [f"probe_inputs_{s.bindings}", "probe_shared" if s.shared else "probe_direct"]
        further: list[tuple[Tensor, Access]] = [(more, "r")] * (s.bindings - 2)
        for i in range(s.length):
            links.call(
                f"link {i}",
                kernel("probe_chain", uses, {"SALT": self._salt(i), "WG": threads}),
                [(ends[i % 2], "r"), (ends[(i + 1) % 2], "w"), *further],
                (PLACES // threads, 1, 1),
            )
        gather.call(
            "gather",
            kernel("probe_gather"),
            [(ends[s.length % 2], "r"), (self._gathered, "w")],
            (16, 1, 1),
        )
        planner = Planner(gpu, kernels, SingleSubmit())
        planner.reserve([fill, links, gather])
        self._fill = (await planner.lower([fill])).recording
        self._links: Sequence[Dispatch] = (await planner.lower([links])).dispatches
        self._gather = (await planner.lower([gather])).recording

    def _salt(self, link: int) -> int:
        return 1 + 7919 * (link % self._setting.pipelines)

    def _values(self) -> list[list[int]]:
        """The right values at every place: after 0, 1, .. all links."""
        s = self._setting
        values = [(_FIRST + _APART * i) & 0xFFFFFFFF for i in range(PLACES)]
        found = [values]
        for i in range(s.length):
            add = self._salt(i) + _MORE * (s.bindings - 2)
            if s.shared:
                values = [values[at ^ 1] for at in range(PLACES)]
            values = [(v * _FACTOR + add) & 0xFFFFFFFF for v in values]
            found.append(values)
        return found

    def _verdict(self, got: Sequence[int]) -> str:
        values = self._values()
        if list(got) == values[-1]:
            return ""
        kinds = Counter(
            self._kind(values, at, value) for at, value in enumerate(got) if value != values[-1][at]
        )
        told = ", ".join(f"{n} {kind}" for kind, n in kinds.most_common(4))
        return f"{kinds.total()} of {PLACES} words are wrong: {told}"

    def _kind(self, values: Sequence[Sequence[int]], at: int, value: int) -> str:
        """Describe a wrong word, or what the link that made it must have read (links can be inverted)."""
        s = self._setting
        told = _known(values, s.length, at, value)
        for link in range(s.length - 1, max(-1, s.length - 1 - _WALK), -1):
            if told:
                break
            value = (value - self._salt(link) - _MORE * (s.bindings - 2)) * _INVERSE & 0xFFFFFFFF
            at ^= s.shared
            if value == values[link][at]:
                return "other"  # its link read the right word
            told = _known(values, link, at, value)
            told = told and f"made by link {link + 1} of a word {told}"
        return told or "other"


def _known(values: Sequence[Sequence[int]], link: int, at: int, value: int) -> str:
    """Describe a word that is wrong at a place after so many links; "" if it is no mistake known here."""
    if value in (0, SENTINEL):
        return "zero" if value == 0 else "untouched (7777.0)"
    # The same buffer was written two links earlier; a value older than that was not overwritten then.
    stale = next((n for n in range(1, link + 1) if values[link - n][at] == value), None)
    return "" if stale is None else f"stale by {stale} links"
