"""Checks of causal convolutions over time, and of LFM2's gated one in both of its forms."""

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
    """What a causal convolution keeps: the pattern's numbers as [taps, channels], position p at row p % taps."""

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
        """Channels from `first` on at a row of this pass; `taps`: the weights of each tap, `own`: the pass's input at
        a row, of these channels."""
        total = [0.0] * len(taps[0])
        for j, weights in enumerate(taps):
            at = row - (self.taps - 1 - j)
            if self.position + at < 0:
                continue
            values = own(at) if at >= 0 else self.before(at, first, len(total))
            total = [t + w * v for t, w, v in zip(total, weights, values, strict=True)]
        return total

    def before(self, row: int, first: int, count: int) -> list[float]:
        """Channels of a row before this pass."""
        return self.history.part(self.place(self.position + row) + first, count)

    def place(self, position: int) -> int:
        """Where a position's row begins."""
        return position % self.taps * self.channels


class ShortConvolution:
    """Weights and history of one, known ones."""

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
        """Of a row of the projection before it."""
        return self._pattern[row] if self.biased else 0.0

    def last_tap(self, channel: int) -> float:
        """The weight of a row's own token."""
        return self._pattern[self._at + (channel + 1) * self.taps - 1]

    def convolved(
        self, row: int, first: int, count: int, own: Callable[[int], Sequence[float]]
    ) -> list[float]:
        """Channels from `first` on, with their bias."""
        weights = self._pattern.part(self._at + first * self.taps, count * self.taps)
        taps = [weights[j :: self.taps] for j in range(self.taps)]
        found = self._ring.convolved(row, first, taps, own)
        if not self.biased:
            return found
        biases = self._pattern.part(self._at + self.channels * self.taps + first, count)
        return [v + b for v, b in zip(found, biases, strict=True)]

    def read(self, bench: Bench, row: int, runs: Sequence[tuple[int, int]]) -> Read:
        """Runs of channels of the history at row `row` of this pass, as they will be."""
        place = self._ring.place(self.position + row)
        return bench.read_runs(self.history, [(place + first, count) for first, count in runs])


def short_conv(bench: Bench, calls: Sequence[Call]) -> Check:
    """short_conv.wgsl: a block of rows and two more, the first channels and the last."""
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
