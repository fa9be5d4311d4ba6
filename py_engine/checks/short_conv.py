"""Checks of causal convolutions over time, and of both forms of LFM2's gated convolution."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from py_engine.checks.inputs import Pattern
from py_engine.checks.workbench import (
    Bench,
    Check,
    Read,
    constants,
    difference,
    whole,
)
from py_engine.graph.trace import Call, Tensor

_WEIGHTS, _HISTORY, _PROJ = 41, 42, 43  # seeds


@dataclass(frozen=True)
class Ring:
    """The history of a causal convolution, filled from the pattern: [taps, channels], position p at row p % taps."""

    history: Pattern
    taps: int
    channels: int
    position: int  # of the pass's first row

    def convolved(
        self,
        row: int,
        first: int,
        taps: Sequence[Sequence[float]],
        own: Callable[[int], Sequence[float]],
    ) -> list[float]:
        """The convolution at a row of this pass, for channels from `first` on. `taps`: the weights of each tap. `own`:
        gives the pass's input at a row, for these channels."""
        total = [0.0] * len(taps[0])
        for j, weights in enumerate(taps):
            at = row - (self.taps - 1 - j)
            if self.position + at < 0:
                continue
            values = own(at) if at >= 0 else self.before(at, first, len(total))
            total = [t + w * v for t, w, v in zip(total, weights, values, strict=True)]
        return total

    def before(self, row: int, first: int, count: int) -> list[float]:
        """Channels of the history at a row before this pass."""
        return self.history.part(self.place(self.position + row) + first, count)

    def place(self, position: int) -> int:
        """Where the row of a position begins in the ring."""
        return position % self.taps * self.channels


class ShortConvolution:
    """A short convolution with known weights and history."""

    def __init__(self, bench: Bench, c: Mapping[str, float], channels: int) -> None:
        [self.taps, self._at, biased] = whole(c, "TAPS", "TAPS_AT", "BIAS")
        self.channels, self.biased = channels, bool(biased)
        self.position = 2 * self.taps + 1
        self._ring = Ring(Pattern(_HISTORY), self.taps, channels, self.position)
        self._pattern = Pattern(_WEIGHTS)
        self.weights = bench.known(self._pattern, self._at + channels * (self.taps + self.biased))
        kept = self._ring.history.period()
        self.history: Tensor = bench.fill("history", kept, self.taps, channels)

    def in_bias(self, row: int) -> float:
        """The bias of a row of the projection before the convolution."""
        return self._pattern[row] if self.biased else 0.0

    def last_tap(self, channel: int) -> float:
        """The weight of the last tap, which is for the row's own token."""
        return self._pattern[self._at + (channel + 1) * self.taps - 1]

    def convolved(
        self, row: int, first: int, count: int, own: Callable[[int], Sequence[float]]
    ) -> list[float]:
        """The convolution with its bias, for channels from `first` on."""
        weights = self._pattern.part(self._at + first * self.taps, count * self.taps)
        taps = [weights[j :: self.taps] for j in range(self.taps)]
        found = self._ring.convolved(row, first, taps, own)
        if not self.biased:
            return found
        biases = self._pattern.part(self._at + self.channels * self.taps + first, count)
        return [v + b for v, b in zip(found, biases, strict=True)]

    def read(self, bench: Bench, row: int, runs: Sequence[tuple[int, int]]) -> Read:
        """Ask for runs of channels of the history at row `row` of this pass, after the run."""
        place = self._ring.place(self.position + row)
        return bench.read_runs(self.history, [(place + first, count) for first, count in runs])


def short_conv(bench: Bench, calls: Sequence[Call]) -> Check:
    """short_conv.wgsl: a block of rows and two more; the first and the last channels."""
    [call] = calls
    c = constants(call)
    [h, block] = whole(c, "CHANNELS", "ROWS")
    conv = ShortConvolution(bench, c, h)
    rows, proj = block + 2, Pattern(_PROJ)
    y = bench.make("y", rows, h)
    step = bench.step(conv.position, rows)
    tensors = [bench.known(proj, rows, 3 * h), conv.weights, step, conv.history, y]
    bench.call(call, tensors, (call.groups[0], 2, 1))
    runs = [(0, min(4, h)), (max(0, h - 4), min(4, h))]
    tokens = (0, 1, block - 1, block, rows - 1)
    got = bench.read_runs(y, [(t * h + at, n) for t in tokens for at, n in runs])
    last = rows - conv.taps
    after = conv.read(bench, last, runs)

    def gated(row: int, at: int, n: int) -> list[float]:
        start = 3 * h * row + at
        return [
            b * x for b, x in zip(proj.part(start, n), proj.part(start + 2 * h, n), strict=True)
        ]

    def result(row: int, at: int, n: int) -> list[float]:
        own = conv.convolved(row, at, n, lambda row: gated(row, at, n))
        return [c * v for c, v in zip(proj.part((3 * row + 1) * h + at, n), own, strict=True)]

    def verify() -> str:
        results = [v for t in tokens for run in runs for v in result(t, *run)]
        kept = [v for run in runs for v in gated(last, *run)]
        return difference(got.floats(), results) or difference(after.floats(), kept)

    return Check(calls, verify)
