"""Checks of attention: heads normed and rotated, for a token and for a chunk."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable, Mapping, Sequence
from operator import add, mul

from py_engine.checks.inputs import Pattern, Types, dot, held, spread, unpack
from py_engine.checks.rotary import CONTEXT, POSITION, SHIFT, TOKENS, RotatedHeads
from py_engine.checks.workbench import (
    TOLERANCE,
    TOLERANCE_F16,
    Bench,
    Check,
    Read,
    constants,
    difference,
    first_of,
    sigmoid,
    whole,
)
from py_engine.graph.buffers import Dtype
from py_engine.graph.trace import Call, Tensor, exact
from py_engine.ops.attention import unit_rows

_KEYS, _VALUES, _QUERIES, _GATES = 64, 67, 70, 72  # seeds

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
    rows, dtype = TOKENS, _dtype(call)
    heads = RotatedHeads(bench, c, h, rows)
    d, kv = heads.d, heads.kv
    q_dtype: Dtype = "f16" if "quad_f16" in call.kernel.uses else "f32"
    q = bench.make("q", rows, h, d, dtype=q_dtype)
    cache = [bench.make(name, kv, CONTEXT, d, dtype=dtype) for name in "kv"]
    step = bench.step(POSITION, rows, SHIFT)
    bench.call(call, [*heads.tensors, step, q, *map(exact, cache)], (call.groups[0], rows, 1))
    tokens = (0, rows - 1, 2)
    got = {(t, i): bench.read(q, (t * h + i) * d, d) for t, i in _pairs(tokens, h)}
    kept = {(t, i): [_row(bench, x, i, POSITION + t) for x in cache] for t, i in _pairs(tokens, kv)}

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


class _Cache:
    """Keys and values [kv heads, context, d], of which only a few are different."""

    def __init__(self, bench: Bench, kv: int, d: int, dtype: Dtype, context: int = CONTEXT) -> None:
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
    heads = RotatedHeads(bench, c, h, 1)
    d, kv = heads.d, heads.kv
    cache = _Cache(bench, kv, d, _dtype(decode))
    step = bench.step(POSITION, 1, SHIFT)
    partial, y = bench.make("partial", h, splits, d + 4), bench.make("y", h, d)
    # The grid of the partial results says how many splits there are.
    tensors = [*heads.tensors, step, *cache.tensors, exact(partial)]
    bench.call(decode, tensors, (splits, decode.groups[1], 1))
    gates = heads.tensors[0] if ending.get("GATE") else bench.zeros
    bench.call(reduce, [exact(partial), step, y, gates])
    got = {i: bench.read(y, i * d, d) for i in _sample(h)}
    appended = {i: [_row(bench, x, i, POSITION) for x in cache.tensors] for i in _sample(kv)}
    dtype = cache.dtype
    tolerance = _TOLERANCES[dtype]

    def of_head(i: int) -> str:
        group = i * kv // h
        own = held(spread(heads.k(0, group), dtype), dtype), held(heads.v(0, group), dtype)
        keys = range(_first_key(c, POSITION), POSITION)
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
    return _prefill(bench, call, position, rows, tokens, (kv, groups, 1), "f32")


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
    return _prefill(bench, call, 40, rows, tokens, groups, "f16")


def _keys_of_rows(call: Call, position: int, rows: int) -> list[range]:
    """The keys that rows from this position on see. With spans: almost all, one, none, or some at the end."""
    c = constants(call)
    places = range(position, position + rows)
    if "attention_spans" not in call.kernel.uses:
        return [range(_first_key(c, place), place + 1) for place in places]
    end = position + rows
    kinds = (range(2, end), range(end // 2, end // 2 + 1), range(7, 7), range(end - 9, end - 1))
    # Most rows see most keys, so that some tiles are seen by all rows of a workgroup.
    return [kinds[t % 4 if t % 16 < 4 else 0] for t in range(rows)]


def _windowed(c: Mapping[str, float], row: int, keys: range) -> range:
    """What a window to both sides leaves of the keys of a row."""
    [windowed, before, after] = whole(c, "WINDOWED", "BEFORE", "AFTER")
    if not windowed:
        return keys
    return range(max(keys.start, row - before), min(keys.stop, row + after + 1))


def _prefill(
    bench: Bench,
    call: Call,
    position: int,
    rows: int,
    tokens: Iterable[int],
    groups: tuple[int, int, int],
    dtype: Dtype,
) -> Check:
    """Attention of a chunk from this position on, compared for some of its tokens. `dtype`: of the queries."""
    c = constants(call)
    [d, h, kv, gate_heads] = whole(c, "D", "H", "HKV", "GATE")
    seen = _keys_of_rows(call, position, rows)
    cache = _Cache(bench, kv, d, _dtype(call), position + rows)
    # Scores of a few units, so that many keys have weight.
    pattern, gates = Pattern(_QUERIES, size=4 * d**-0.5), Pattern(_GATES)
    queries, opened = pattern.rounded(dtype), gates.map(sigmoid)
    # Tensor units read whole blocks of 16 rows.
    q = bench.known(pattern, rows if dtype == "f32" else -(-rows // 16) * 16, h, d, dtype=dtype)
    y = bench.make("y", rows, h, d)
    gating = bench.known(gates, rows, gate_heads, d) if gate_heads else bench.zeros
    tensors = [q, *cache.tensors, bench.step(position, rows), y, gating]
    if "attention_spans" in call.kernel.uses:
        words = struct.pack(f"<{2 * rows}I", *(n for keys in seen for n in (keys.start, keys.stop)))
        tensors.append(bench.put("spans", words, rows, 2, dtype="u32"))
    bench.call(call, tensors, groups)
    sample = _pairs(sorted(tokens), h)
    got = {(t, i): bench.read(y, (t * h + i) * d, d) for t, i in sample}

    def of_head(t: int, i: int) -> str:
        keys = _windowed(c, t, seen[t])
        if not keys:
            return difference(got[t, i].floats(), [0.0] * d, _TOLERANCES[dtype], size=1.0)
        query = queries.part((t * h + i) * d, d)
        wanted = cache.attend(query, i * kv // h, keys, cap=c.get("CAP", 0.0))
        if gate_heads:
            wanted = list(map(mul, wanted, opened.part((t * gate_heads + 2 * i + 1) * d, d)))
        return difference(got[t, i].floats(), wanted, _TOLERANCES[dtype])

    return Check([call], lambda: first_of([of_head(t, i) for t, i in sample]))
