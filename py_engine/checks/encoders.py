"""Checks of the kernels that only encoders have: attention to both sides, and pooling a text to a vector."""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from operator import add

from py_engine.checks.inputs import Pattern, dot
from py_engine.checks.workbench import (
    TOLERANCE,
    TOLERANCE_F16,
    Bench,
    Check,
    constants,
    difference,
    first_of,
    whole,
)
from py_engine.graph.buffers import Dtype
from py_engine.graph.trace import Call
from py_engine.ops.pool import POOLINGS

_QUERIES, _KEYS, _VALUES, _ROWS = 81, 82, 83, 84  # seeds


def full_attention(bench: Bench, calls: Sequence[Call]) -> Check:
    """attention_full.wgsl: a block of rows and three more, which see 40 keys, one, none, or ten after a gap; one head
    of each of some rows is compared. Queries, keys and values are laid out as the model's, in their own tensors."""
    [call] = calls
    c = constants(call)
    [d, h, per_kv, block, before, after] = whole(
        c, "D", "H", "HEADS_PER_KV", "BQ", "BEFORE", "AFTER"
    )
    dtype: Dtype = "f16" if "quad_f16" in call.kernel.uses else "f32"
    rows, keys, kv = block + 3, 64, h // per_kv
    spans = [[(0, 40), (41, 42), (7, 7), (50, 60)][t % 4] for t in range(rows)]
    # Scores of a few units, so that many keys have weight.
    patterns = {
        "Q": Pattern(_QUERIES, size=4 / (c["SCALE"] * d**0.5)),
        "K": Pattern(_KEYS),
        "V": Pattern(_VALUES),
    }

    def place(of: str, row: int, head: int) -> int:
        apart = d if of == "Q" else 4 * int(c[f"{of}_HEAD"])
        return 4 * int(row * c[f"{of}_STRIDE"] + c[f"{of}_AT"]) + head * apart

    sizes = {"Q": place("Q", rows, h), "K": place("K", keys, kv), "V": place("V", keys, kv)}
    forms: dict[str, Dtype] = {"Q": "f32", "K": dtype, "V": dtype}
    tensors = [
        bench.fill(of, patterns[of].period(form), sizes[of], dtype=form)
        for of, form in forms.items()
    ]
    words = struct.pack(f"<{2 * rows}I", *(bound for span in spans for bound in span))
    y = bench.make("y", rows, h, d)
    bench.call(
        call,
        [*tensors, bench.put("spans", words, rows, 2, dtype="u32"), bench.step(0, rows), y],
        (2, h, 1),
    )
    tokens = sorted({0, 1, 2, 3, block // 2, block - 1, block, rows - 1})
    sample = [(t, n % h) for n, t in enumerate(tokens)] + [(0, h - 1)]
    got = [bench.read(y, (t * h + i) * d, d) for t, i in sample]

    def part(of: str, row: int, head: int) -> list[float]:
        return patterns[of].part(place(of, row, head), d)

    def attended(t: int, i: int) -> list[float]:
        first, end = spans[t]
        if c.get("WINDOWED"):
            first, end = max(first, t - before), min(end, t + after + 1)
        seen = range(first, end)
        if not seen:
            return [0.0] * d
        query = part("Q", t, i)
        scores = [c["SCALE"] * dot(query, part("K", j, i // per_kv)) for j in seen]
        most = max(scores)
        weights = [math.exp(s - most) for s in scores]
        total, found = sum(weights), [0.0] * d
        for j, weight in zip(seen, weights, strict=True):
            found = list(map(add, found, map((weight / total).__mul__, part("V", j, i // per_kv))))
        return found

    tolerance = TOLERANCE_F16 if dtype == "f16" else TOLERANCE

    def verify() -> str:
        return first_of(
            difference(read.floats(), attended(t, i), tolerance, size=1.0)
            for (t, i), read in zip(sample, got, strict=True)
        )

    return Check(calls, verify)


def pool(bench: Bench, calls: Sequence[Call]) -> Check:
    """pool.wgsl: texts of five rows, of one row and of none."""
    [call] = calls
    c = constants(call)
    [k, pooling, unit] = whole(c, "K", "POOLING", "NORMALISE")
    texts, x = [(0, 5), (6, 7), (7, 7)], Pattern(_ROWS)
    words = struct.pack("<6I", *(bound for text in texts for bound in text))
    y = bench.make("y", len(texts), k)
    spans = bench.put("texts", words, len(texts), 2, dtype="u32")
    bench.call(call, [bench.known(x, 8, k), spans, y], (len(texts), 1, 1))
    got = bench.read(y)

    def vector(first: int, end: int) -> list[float]:
        if first == end:
            return [0.0] * k
        if pooling == POOLINGS["first"]:
            end = first + 1
        if pooling == POOLINGS["last"]:
            first = end - 1
        rows = [x.part(t * k, k) for t in range(first, end)]
        found = [sum(column) / len(rows) for column in zip(*rows, strict=True)]
        length = math.sqrt(dot(found, found)) if unit else 1.0
        return [v / length for v in found]

    return Check(
        calls, lambda: difference(got.floats(), [v for text in texts for v in vector(*text)])
    )
