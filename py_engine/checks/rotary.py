"""Checks of rotary positions: heads normed and rotated in place, and angles of several axes."""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from itertools import chain

from py_engine.blocks.state import ROPE_BLOCK
from py_engine.checks.inputs import Pattern, pack
from py_engine.checks.workbench import (
    Bench,
    Check,
    constants,
    difference,
    first_of,
    normed,
    rms_factor,
    sigmoid,
    whole,
)
from py_engine.graph.trace import Call, Tensor, exact

_QKV, _Q_NORM, _K_NORM = 61, 62, 63  # seeds
CONTEXT = 128  # rows of a KV cache
# Of the first token: the last tile of keys is not full, and its angle needs both parts of the table.
POSITION = 110
SHIFT = -3  # rotary positions minus rows of the cache
_TURN = POSITION + SHIFT
TOKENS = 5  # rows of a chunk that is rotated
_THETA = 1e4


class RotatedHeads:
    """Stacked projections with known numbers, and what lib/rotary.wgsl must make of their heads."""

    def __init__(self, bench: Bench, c: Mapping[str, float], heads: int, rows: int) -> None:
        self._c = c
        [self.d, self.kv, self._width, gated, self._period] = whole(
            c, "D", "HKV", "R", "GATED", "Q_PERIOD"
        )
        self.heads = heads
        self._apart = 1 + gated
        self.row = (self._apart * heads + 2 * self.kv) * self.d  # how many numbers a token has
        self._qkv = Pattern(_QKV)
        pairs = self._width // 2
        self._frequencies = _frequencies(pairs)
        self._norms = {"Q": Pattern(_Q_NORM, 1.5), "K": Pattern(_K_NORM, 1.5)}
        norms = (
            bench.known(pattern, self.d) if c.get(f"NORM_{letter}") else bench.zeros
            for letter, pattern in self._norms.items()
        )
        self.tensors: list[Tensor] = [
            bench.known(self._qkv, rows, self.row),
            self._table(bench, rows),
            *norms,
        ]
        self.k = cache(self._k)

    def _table(self, bench: Bench, rows: int) -> Tensor:
        """The table of angles: by position, or one entry for each row."""
        if not self._width:
            return bench.zeros
        if not self._c.get("PER_ROW"):
            return exact(known_rope_table(bench, self._width // 2))
        data = b"".join(_angles(_TURN + t, self._frequencies) for t in range(rows))
        return bench.put("angles", data, len(data) // 4)

    def q(self, token: int, head: int) -> list[float]:
        """A query head of a row whose rotary position is `_TURN` + token."""
        values = self._turned(token, self._apart * head, "Q")
        scale = self._c["SCALE"]
        if growth := self._c.get("Q_GROWTH"):
            scale *= 1.0 + growth * math.log(1 + (POSITION + token) // self._period)
        return [v * scale for v in values]

    def _k(self, token: int, head: int) -> list[float]:
        """A key head of a row."""
        return self._turned(token, self._apart * self.heads + head, "K")

    def v(self, token: int, head: int) -> list[float]:
        """A value head of a row."""
        return self._raw(token, self._apart * self.heads + self.kv + head)

    def gate(self, head: int) -> list[float]:
        """The gate by which a head of the only row is multiplied."""
        return list(map(sigmoid, self._raw(0, 2 * head + 1)))

    def _raw(self, token: int, place: int) -> list[float]:
        return self._qkv.part(token * self.row + place * self.d, self.d)

    def _turned(self, token: int, place: int, letter: str) -> list[float]:
        values = self._raw(token, place)
        if self._c.get("NORM_LAST"):
            return self._normed(self._rotated(values, token), letter)
        return self._rotated(self._normed(values, letter), token)

    def _normed(self, values: list[float], letter: str) -> list[float]:
        if not self._c.get(f"NORM_{letter}"):
            return values
        weight = self._norms[letter].part(0, self.d)
        return normed(values, weight, self._c[f"EPS_{letter}"], self._c[f"OFFSET_{letter}"])

    def _rotated(self, values: list[float], token: int) -> list[float]:
        found, pairs, neighbours = list(values), self._width // 2, self._c.get("NEIGHBOURS")
        for n, (cosine, sine) in enumerate(_turns(_TURN + token, self._frequencies)):
            i, j = (2 * n, 2 * n + 1) if neighbours else (n, n + pairs)
            a, b = values[i], values[j]
            found[i], found[j] = a * cosine - b * sine, b * cosine + a * sine
        return found


@cache
def _turns(position: int, frequencies: tuple[float, ...]) -> list[tuple[float, float]]:
    """(cos, sin) of each pair at a position."""
    return [(math.cos(position * f), math.sin(position * f)) for f in frequencies]


def _frequencies(pairs: int) -> tuple[float, ...]:
    return tuple(_THETA ** (-i / pairs) for i in range(pairs))


def known_rope_table(bench: Bench, pairs: int) -> Tensor:
    """A table for so many pairs, with the positions that these checks use."""
    return bench.keep(("rope", pairs), lambda: _rope_table(bench, _frequencies(pairs)))


def _rope_table(bench: Bench, frequencies: tuple[float, ...]) -> Tensor:
    """As Rope.table, but only with the entries that these checks use; the others are 0, which takes no time."""
    empty = bytes(8 * len(frequencies))
    tokens = range(_TURN, _TURN + TOKENS)
    blocks = {token // ROPE_BLOCK for token in tokens}
    places = {token % ROPE_BLOCK for token in tokens}
    rows = [(b * ROPE_BLOCK, b in blocks) for b in range(CONTEXT // ROPE_BLOCK)]
    rows += [(p, p in places) for p in range(ROPE_BLOCK)]
    data = b"".join(
        _angles(position, frequencies) if wanted else empty for position, wanted in rows
    )
    return bench.put("rope", data, len(data) // 4)


def _angles(position: int, frequencies: tuple[float, ...]) -> bytes:
    """A row of the table."""
    return pack([part for turn in _turns(position, frequencies) for part in turn], "f32")


def rotate_rows(bench: Bench, calls: Sequence[Call]) -> Check:
    """rotate_rows.wgsl: every head of the first and of the last of five rows, and a row after them, which must not
    change."""
    [call] = calls
    c = constants(call)
    [h, norm_v] = whole(c, "H", "NORM_V")
    heads = RotatedHeads(bench, c, h, TOKENS)
    _, table, *norms = heads.tensors
    positions = _words(range(_TURN, _TURN + TOKENS))
    rows = bench.fill("heads", Pattern(_QKV).period(), TOKENS + 1, heads.row)
    given = bench.put("positions", positions, TOKENS, dtype="u32")
    step = bench.step(POSITION, TOKENS)
    bench.call(call, [table, given, *norms, step, rows], (call.groups[0], TOKENS + 1, 1))
    got = {t: bench.read(rows, t * heads.row, heads.row) for t in (0, TOKENS - 1, TOKENS)}

    def value(t: int, i: int) -> list[float]:
        v = heads.v(t, i)
        factor = rms_factor(v, c["EPS_V"]) if norm_v else 1.0
        return [x * factor for x in v]

    def verify() -> str:
        reasons = []
        for t, read in got.items():
            wanted = Pattern(_QKV).part(t * heads.row, heads.row)
            if t < TOKENS:
                made = [heads.q(t, i) for i in range(h)]
                made += [part(t, i) for part in (heads.k, value) for i in range(heads.kv)]
                wanted = list(chain(*made))
            reasons.append(difference(read.floats(), wanted))
        return first_of(reasons)

    return Check(calls, verify)


def rope_angles(bench: Bench, calls: Sequence[Call]) -> Check:
    """rope_angles.wgsl: rows whose positions differ on every axis."""
    [call] = calls
    [axes, pairs] = whole(constants(call), "AXES", "PAIRS")
    positions = [[_TURN + (t + a) % TOKENS for a in range(axes)] for t in range(TOKENS)]
    follows = [i % axes for i in range(pairs)]
    angles = bench.make("angles", TOKENS, pairs, 2)
    tensors = [
        bench.put("positions", _words(chain(*positions)), TOKENS, axes, dtype="u32"),
        bench.put("axes", _words(follows), pairs, dtype="u32"),
        exact(known_rope_table(bench, pairs)),
        bench.step(POSITION, TOKENS),
        angles,
    ]
    bench.call(call, tensors, (call.groups[0], TOKENS, 1))
    got = bench.read(angles)

    def verify() -> str:
        frequencies = _frequencies(pairs)
        turns = [[_turns(p, frequencies) for p in row] for row in positions]
        wanted = (turns[t][a][i] for t in range(TOKENS) for i, a in enumerate(follows))
        return difference(got.floats(), list(chain(*wanted)))

    return Check(calls, verify)


def _words(values: Iterable[int]) -> bytes:
    return array("I", values).tobytes()
