"""Checks of attention: heads normed and rotated, for a token and for a chunk."""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from itertools import chain
from operator import add, mul

from py_engine.blocks.state import ROPE_BLOCK
from py_engine.checks.inputs import Pattern, Types, dot, held, pack, spread, unpack
from py_engine.checks.workbench import (
    TOLERANCE,
    TOLERANCE_F16,
    Bench,
    Check,
    Read,
    constants,
    difference,
    first_of,
    normed,
    sigmoid,
    whole,
)
from py_engine.graph.buffers import Dtype
from py_engine.graph.trace import Call, Tensor, exact
from py_engine.ops.attention import unit_rows

_QKV, _Q_NORM, _K_NORM, _KEYS, _VALUES, _QUERIES, _GATES = 61, 62, 63, 64, 67, 70, 72  # seeds
_CONTEXT = 128
# Of the token: the last tile of keys is not full, and its angle needs both parts of the table.
_POSITION = 110
_SHIFT = -3  # rotary positions minus rows of the cache
_TURN = _POSITION + _SHIFT
_TOKENS = 5  # rows of a chunk that is rotated
_THETA = 1e4


class _Heads:
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
            scale *= 1.0 + growth * math.log(1 + (_POSITION + token) // self._period)
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
    tokens = range(_TURN, _TURN + _TOKENS)
    blocks = {token // ROPE_BLOCK for token in tokens}
    places = {token % ROPE_BLOCK for token in tokens}
    rows = [(b * ROPE_BLOCK, b in blocks) for b in range(_CONTEXT // ROPE_BLOCK)]
    rows += [(p, p in places) for p in range(ROPE_BLOCK)]
    data = b"".join(
        _angles(position, frequencies) if wanted else empty for position, wanted in rows
    )
    return bench.put("rope", data, len(data) // 4)


def _angles(position: int, frequencies: tuple[float, ...]) -> bytes:
    """A row of the table."""
    return pack([part for turn in _turns(position, frequencies) for part in turn], "f32")


# The allowed error of an appended row, by the dtype of the KV cache; q8 rounds to 1/255 of a group's range.
_TOLERANCES: Mapping[Dtype, float] = {"f32": TOLERANCE, "f16": TOLERANCE_F16, "q8": 1e-2}


def _dtype(call: Call) -> Dtype:
    """The dtype of the KV cache."""
    if call.kernel.stem == "attention_prefill_units":
        return "f16"
    return next(d for d in _TOLERANCES if any(u.startswith(f"kv_{d}") for u in call.kernel.uses))


def _row(bench: Bench, cache: Tensor, head: int, position: int) -> Read:
    """Ask for a row of a cache."""
    heads, context, _ = cache.shape
    size = cache.nbytes // (heads * context)
    return bench.read_bytes(cache, [((head * context + position) * size, size)])


def _sample(count: int) -> list[int]:
    """First, middle and last."""
    return sorted({0, count // 2, count - 1})


def _pairs(tokens: Sequence[int], heads: int) -> list[tuple[int, int]]:
    """Pairs of these tokens with a sample of heads, so that each token and each head occurs."""
    sample = _sample(heads)
    count = max(len(tokens), len(sample))
    return [(tokens[n % len(tokens)], sample[n % len(sample)]) for n in range(count)]


def rope(bench: Bench, calls: Sequence[Call]) -> Check:
    """rope.wgsl: the first, a middle and the last head of five tokens."""
    [call] = calls
    c = constants(call)
    [h] = whole(c, "H")
    rows, dtype = _TOKENS, _dtype(call)
    heads = _Heads(bench, c, h, rows)
    d, kv = heads.d, heads.kv
    q_dtype: Dtype = "f16" if "quad_f16" in call.kernel.uses else "f32"
    q = bench.make("q", rows, h, d, dtype=q_dtype)
    cache = [bench.make(name, kv, _CONTEXT, d, dtype=dtype) for name in "kv"]
    step = bench.step(_POSITION, rows, _SHIFT)
    bench.call(call, [*heads.tensors, step, q, *map(exact, cache)], (call.groups[0], rows, 1))
    tokens = (0, rows - 1, 2)
    got = {(t, i): bench.read(q, (t * h + i) * d, d) for t, i in _pairs(tokens, h)}
    kept = {
        (t, i): [_row(bench, x, i, _POSITION + t) for x in cache] for t, i in _pairs(tokens, kv)
    }

    def verify() -> str:
        reasons = [
            difference(read.floats(q_dtype), spread(heads.q(t, i), dtype), _TOLERANCES[q_dtype])
            for (t, i), read in got.items()
        ]
        tolerance = _TOLERANCES[dtype]
        for (t, i), (k, v) in kept.items():
            reasons.append(
                difference(unpack(k.bytes, dtype), spread(heads.k(t, i), dtype), tolerance)
            )
            reasons.append(difference(unpack(v.bytes, dtype), heads.v(t, i), tolerance))
        return first_of(reasons)

    return Check(calls, verify)


def rope_angles(bench: Bench, calls: Sequence[Call]) -> Check:
    """rope_angles.wgsl: rows whose positions differ on every axis."""
    [call] = calls
    [axes, pairs] = whole(constants(call), "AXES", "PAIRS")
    positions = [[_TURN + (t + a) % _TOKENS for a in range(axes)] for t in range(_TOKENS)]
    follows = [i % axes for i in range(pairs)]
    angles = bench.make("angles", _TOKENS, pairs, 2)
    tensors = [
        bench.put("positions", _words(chain(*positions)), _TOKENS, axes, dtype="u32"),
        bench.put("axes", _words(follows), pairs, dtype="u32"),
        exact(known_rope_table(bench, pairs)),
        bench.step(_POSITION, _TOKENS),
        angles,
    ]
    bench.call(call, tensors, (call.groups[0], _TOKENS, 1))
    got = bench.read(angles)

    def verify() -> str:
        frequencies = _frequencies(pairs)
        turns = [[_turns(p, frequencies) for p in row] for row in positions]
        wanted = (turns[t][a][i] for t in range(_TOKENS) for i, a in enumerate(follows))
        return difference(got.floats(), list(chain(*wanted)))

    return Check(calls, verify)


def _words(values: Iterable[int]) -> bytes:
    return array("I", values).tobytes()


class _Cache:
    """Keys and values [kv heads, context, d], of which only a few are different."""

    def __init__(
        self, bench: Bench, kv: int, d: int, dtype: Dtype, context: int = _CONTEXT
    ) -> None:
        self.keys, self.values = Types(_KEYS, d, dtype), Types(_VALUES, d, dtype)
        self.dtype = dtype
        self.tensors = []
        for name, types in (("k", self.keys), ("v", self.values)):
            data = types.pack(range(kv), context)
            self.tensors.append(exact(bench.put(name, data, kv, context, d, dtype=dtype)))

    def attend(
        self,
        q: Sequence[float],
        head: int,
        keys: range,
        own: tuple[Sequence[float], Sequence[float]] | None = None,
        cap: float = 0.0,
    ) -> list[float]:
        """softmax(q k) v over these rows and the token's own key and value; scores are capped to +-`cap`."""
        dots, rows = self.keys.dots(q), list(self.values.rows)
        scores = [dots[kind] for kind in self.keys.kinds(head, keys.stop)[keys.start :]]
        kinds = self.values.kinds(head, keys.stop)[keys.start :]
        if own is not None:
            scores.append(dot(q, own[0]))
            kinds.append(len(rows))
            rows.append(list(own[1]))
        if cap:
            scores = [cap * math.tanh(s / cap) for s in scores]
        most = max(scores)
        weights = [math.exp(s - most) for s in scores]
        shares, total = [0.0] * len(rows), sum(weights)
        for kind, weight in zip(kinds, weights, strict=True):
            shares[kind] += weight / total
        found = [0.0] * len(rows[0])
        for share, row in zip(shares, rows, strict=True):
            found = list(map(add, found, map(share.__mul__, row)))
        return found


def _first_key(c: Mapping[str, float], position: int) -> int:
    """The first key that a query sees."""
    [window] = whole(c, "WINDOW")
    return max(0, position + 1 - window) if window else 0


def decode_attention(bench: Bench, calls: Sequence[Call]) -> Check:
    """attention_decode.wgsl with attention_reduce.wgsl: a token after 110 others, in up to four splits."""
    decode, reduce = calls
    c, ending = constants(decode), constants(reduce)
    h, splits = int(ending["H"]), 4
    heads = _Heads(bench, c, h, 1)
    d, kv = heads.d, heads.kv
    cache = _Cache(bench, kv, d, _dtype(decode))
    step = bench.step(_POSITION, 1, _SHIFT)
    partial, y = bench.make("partial", h, splits, d + 4), bench.make("y", h, d)
    # The grid of the partial results says how many splits there are.
    tensors = [*heads.tensors, step, *cache.tensors, exact(partial)]
    bench.call(decode, tensors, (splits, decode.groups[1], 1))
    gates = heads.tensors[0] if ending.get("GATE") else bench.zeros
    bench.call(reduce, [exact(partial), step, y, gates])
    got = {i: bench.read(y, i * d, d) for i in _sample(h)}
    appended = {i: [_row(bench, x, i, _POSITION) for x in cache.tensors] for i in _sample(kv)}
    dtype = cache.dtype
    tolerance = _TOLERANCES[dtype]

    def of_head(i: int) -> str:
        group = i * kv // h
        own = held(spread(heads.k(0, group), dtype), dtype), held(heads.v(0, group), dtype)
        keys = range(_first_key(c, _POSITION), _POSITION)
        wanted = cache.attend(spread(heads.q(0, i), dtype), group, keys, own, c.get("CAP", 0.0))
        if ending.get("GATE"):
            wanted = list(map(mul, wanted, heads.gate(i)))
        return difference(got[i].floats(), wanted, tolerance)

    def verify() -> str:
        reasons = [of_head(i) for i in got]
        for i, (k, v) in appended.items():
            reasons.append(
                difference(unpack(k.bytes, dtype), spread(heads.k(0, i), dtype), tolerance)
            )
            reasons.append(difference(unpack(v.bytes, dtype), heads.v(0, i), tolerance))
        return first_of(reasons)

    return Check(calls, verify)


def prefill_attention(bench: Bench, calls: Sequence[Call]) -> Check:
    """attention_prefill.wgsl: more rows than a workgroup takes, of which the first see one tile of keys and the last
    two; one head of each of some tokens is compared."""
    [call] = calls
    c = constants(call)
    [h, kv] = whole(c, "H", "HKV")
    [row_threads, key_threads, key_blocks] = whole(c, "TR", "TC", "KEY_BLOCKS")
    per_kv = h // kv
    block = -(-8 * row_threads // per_kv)
    position, rows = 4 * key_threads * key_blocks - 2, block + 3
    groups = -(-rows * per_kv // (8 * row_threads))
    # A thread has every eighth part of the rows.
    tokens = {*(i * block // 8 for i in range(8)), block - 1, block, rows - 1}
    return _prefill(bench, call, range(position, position + rows), tokens, (kv, groups, 1), "f32")


def prefill_attention_units(bench: Bench, calls: Sequence[Call]) -> Check:
    """attention_prefill_units.wgsl: 35 or 67 rows after 40 others, so several tiles of keys; one head of each of some
    tokens is compared."""
    [call] = calls
    [d, h] = whole(constants(call), "D", "H")
    block = unit_rows(d)
    # A workgroup's rows, and three more; a quarter of 128, since 131 rows would take more memory than a load has left.
    rows = (64 if block == 64 else 32) + 3
    tokens = {0, 1, 15, 16, 31, 32, rows - 1}
    groups = (h, -(-rows // block), 1)
    return _prefill(bench, call, range(40, 40 + rows), tokens, groups, "f16")


def _prefill(
    bench: Bench,
    call: Call,
    positions: range,
    tokens: Iterable[int],
    groups: tuple[int, int, int],
    dtype: Dtype,
) -> Check:
    """Attention of a chunk at these positions, compared for some of its tokens. `dtype`: of the queries."""
    c = constants(call)
    [d, h, kv, gate_heads] = whole(c, "D", "H", "HKV", "GATE")
    rows = len(positions)
    cache = _Cache(bench, kv, d, _dtype(call), positions.stop)
    # Scores of a few units, so that many keys have weight.
    pattern, gates = Pattern(_QUERIES, size=4 * d**-0.5), Pattern(_GATES)
    queries, opened = pattern.rounded(dtype), gates.map(sigmoid)
    # Tensor units read whole blocks of 16 rows.
    q = bench.known(pattern, rows if dtype == "f32" else -(-rows // 16) * 16, h, d, dtype=dtype)
    y = bench.make("y", rows, h, d)
    gating = bench.known(gates, rows, gate_heads, d) if gate_heads else bench.zeros
    step = bench.step(positions.start, rows)
    bench.call(call, [q, *cache.tensors, step, y, gating], groups)
    sample = _pairs(sorted(tokens), h)
    got = {(t, i): bench.read(y, (t * h + i) * d, d) for t, i in sample}

    def of_head(t: int, i: int) -> str:
        keys = range(_first_key(c, positions[t]), positions[t] + 1)
        query = queries.part((t * h + i) * d, d)
        wanted = cache.attend(query, i * kv // h, keys, cap=c.get("CAP", 0.0))
        if gate_heads:
            wanted = list(map(mul, wanted, opened.part((t * gate_heads + 2 * i + 1) * d, d)))
        return difference(got[t, i].floats(), wanted, _TOLERANCES[dtype])

    return Check([call], lambda: first_of([of_head(t, i) for t, i in sample]))
