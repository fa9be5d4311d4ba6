"""Checks of the sampling kernels: the token that they choose, and what they write for the next pass."""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping, Sequence
from itertools import count

from py_engine.checks.inputs import pack
from py_engine.checks.workbench import (
    Bench,
    Check,
    difference,
    exact_difference,
    first_of,
)
from py_engine.graph.trace import Call, Tensor, exact
from py_engine.ops.sample import HISTOGRAM_WORDS, IN_PROMPT, pack_sampling
from py_engine.ops.step import HALT_STOP, pack_step

_MASK = 0xFFFFFFFF
# Five tokens have logits above 0, all others 0. With penalties on the first two, the third is the best.
_VALUES = (104.5, 104.25, 104.0, 103.75, 103.0)
_REPETITION, _PRESENCE, _FREQUENCY = 1.5, 0.5, 0.5


def _places(v: int) -> list[int]:
    """Ids of the five tokens, spread over the vocabulary."""
    return [v // 3, v // 2 + 20, v - 1, 0, v // 5 + 1]


def _logits(bench: Bench, v: int) -> Tensor:
    """f32 [v]: logits of the five tokens; all others are 0."""

    def make() -> Tensor:
        tensor = exact(bench.make("logits", v))
        for token, value in zip(_places(v), _VALUES, strict=True):
            bench.write(tensor, 4 * token, pack([value], "f32"))
        return tensor

    return bench.keep(("logits", v), make)


def sample(bench: Bench, calls: Sequence[Call]) -> Check:
    """The best token under penalties; or draws with top-p and top-k in which a token that they drop would win."""
    argmax, *rest = calls
    [v] = argmax.tensors[0].shape
    if len(rest) == 1:
        return _greedy(bench, calls, v)
    # Top-p 0.7 keeps three: of e^0, e^-0.25, e^-0.5, e^-0.75 and e^-1.5 together the first two are 0.58, three 0.77.
    draws = [_draw(bench, calls, v, {"top_p": 0.7}, 3, 0)]
    draws += [_draw(bench, calls, v, {"top_k": 4}, 4, first) for first in (0, 1000, 2000)]
    return Check(calls, lambda: first_of([draw.verify() for draw in draws]))


class _Run:
    """Buffers that a sampling run writes, and what they must hold afterwards."""

    def __init__(self, bench: Bench, v: int, settings: bytes, penalised: bool) -> None:
        self.logits = _logits(bench, v)
        self.settings = bench.put("sampling", settings, len(settings) // 4, dtype="u32")
        # Runs without penalties share this one: they count what they draw, and read none of it.
        self.counts = bench.keep(
            ("counts", v, penalised), lambda: exact(bench.make("counts", v, dtype="u32"))
        )
        self.ids = bench.make("ids", 1, dtype="u32")
        step = pack_step(pos=7, rows=2, limit=100, count=3)
        self.step = bench.put("step", step, 8, dtype="u32")
        self.best = exact(bench.make("best", 2 * (-(-v // 2048) * 16), dtype="u32"))
        self.got_step, self.got_ids = bench.read(self.step, 0, 5), bench.read(self.ids)

    def difference(self, token: int, halt: int) -> str:
        """What is wrong with step and ids after this token was chosen."""
        wanted = [token, halt, 9, 4, 1]
        return first_of(
            [
                exact_difference(self.got_step.words(), wanted, "(token, halt, pos, count, rows)"),
                exact_difference(self.got_ids.words(), [token], "ids"),
            ]
        )


def _greedy(bench: Bench, calls: Sequence[Call], v: int) -> Check:
    argmax, take = calls
    prompted, used, best, *_ = _places(v)
    settings = pack_sampling(
        repetition_penalty=_REPETITION, presence_penalty=_PRESENCE,
        frequency_penalty=_FREQUENCY, stop_ids=[best],
    )  # fmt: skip
    run = _Run(bench, v, settings, penalised=True)
    bench.write(run.counts, 4 * prompted, struct.pack("<I", IN_PROMPT))
    bench.write(run.counts, 4 * used, struct.pack("<I", 2))
    bench.call(argmax, [run.logits, run.counts, run.settings, run.best])
    bench.call(take, [run.best, run.settings, run.counts, run.ids, run.step])
    after = [bench.read(run.counts, token, 1) for token in (prompted, used, best)]
    # Each is alone in its block, so the block's result is the order key of its penalised logit.
    keys = [bench.read(run.best, 2 * _block(token), 1) for token in (prompted, used)]
    penalised = [_VALUES[0] / _REPETITION, _VALUES[1] / _REPETITION - _PRESENCE - 2 * _FREQUENCY]

    def verify() -> str:
        found = [read.words()[0] for read in after]
        logits = [_from_order_key(read.words()[0]) for read in keys]
        return first_of(
            [
                run.difference(best, HALT_STOP),
                exact_difference(found, [IN_PROMPT, 2, 1], "counts"),
                difference(logits, penalised),
            ]
        )

    return Check(calls, verify)


def _block(token: int) -> int:
    """Where sample_argmax.wgsl leaves the best of a token's block."""
    return token // 2048 * 16 + token % 256 // 16


def _from_order_key(key: int) -> float:
    """The logit of an order key; it must be positive."""
    value: float = struct.unpack("<f", struct.pack("<I", key & 0x7FFFFFFF))[0]
    return value


def _draw(
    bench: Bench, calls: Sequence[Call], v: int, how: Mapping[str, float], kept: int, first: int
) -> Check:
    argmax, histogram, choose = calls
    seed, token = _seed(v, kept, first)
    run = _Run(bench, v, pack_sampling(temperature=1.0, seed=seed, **how), False)  # type: ignore[arg-type]
    buckets = bench.make("histogram", HISTOGRAM_WORDS, dtype="u32")
    scores = bench.make("scores", *run.best.shape, dtype="u32")
    bench.call(argmax, [run.logits, run.counts, run.settings, run.best])
    tensors = [run.logits, run.counts, run.best, run.settings, run.step, buckets, scores]
    bench.call(histogram, tensors)
    bench.call(
        choose,
        [run.logits, run.best, scores, run.settings, buckets, run.counts, run.ids, run.step],
    )
    left = bench.read(buckets)

    def verify() -> str:
        told = run.difference(token, 0)
        return told or ("leaves a histogram that is not empty" if any(left.bytes) else "")

    return Check(calls, verify)


def _seed(v: int, kept: int, first: int) -> tuple[int, int]:
    """(seed, token): the first seed from `first` on with which a token outside the best `kept` would win, and the token
    that wins among the best `kept`. It wins clearly, and not by its logit alone."""
    places, drawn = _places(v), _pcg(3 + 0x9E3779B9)
    hashed = list(map(_pcg, places))
    for seed in count(first):
        key = _pcg(seed ^ drawn)
        scores = [_gumbel(of ^ key) + value for of, value in zip(hashed, _VALUES, strict=True)]
        best = sorted(scores[:kept], reverse=True)
        if max(scores[kept:]) > best[0] and best[0] - best[1] > 0.25 and best[0] != scores[0]:
            return seed, places[scores.index(best[0])]
    raise AssertionError


def _pcg(v: int) -> int:
    state = (v * 747796405 + 2891336453) & _MASK
    word = ((state >> ((state >> 28) + 4)) ^ state) * 277803737 & _MASK
    return word >> 22 ^ word


def _gumbel(word: int) -> float:
    """The noise of a token, as lib/sample_noise.wgsl defines it; `word`: pcg(token) ^ pcg(seed ^ pcg(drawn + ..))."""
    uniform = min((_pcg(word) + 0.5) / 2**32, 0.99999994)
    return -math.log(-math.log1p(-uniform))


def mark(bench: Bench, calls: Sequence[Call]) -> Check:
    """sample_mark.wgsl: of four ids three are valid, and one of these is no token; so two are marked."""
    [call] = calls
    [v] = call.tensors[2].shape
    ids = (v - 1, v + 5, 1, 0)
    tokens = bench.put("ids", struct.pack("<4I", *ids), len(ids), dtype="u32")
    counts = exact(bench.make("counts", v, dtype="u32"))
    bench.write(counts, 4, struct.pack("<I", 3))
    bench.call(call, [tokens, bench.step(0, 3), counts], (1, 1, 1))
    got = [bench.read(counts, token, 1) for token in (v - 1, 1, 0)]
    wanted = [IN_PROMPT, IN_PROMPT | 3, 0]
    return Check(
        calls, lambda: exact_difference([read.words()[0] for read in got], wanted, "counts")
    )


def clear(bench: Bench, calls: Sequence[Call]) -> Check:
    """sample_clear.wgsl: first, middle and last token."""
    [call] = calls
    [v] = call.tensors[0].shape
    counts = exact(bench.make("counts", v, dtype="u32"))
    places = sorted({0, v // 2, v - 1})
    for token in places:
        bench.write(counts, 4 * token, struct.pack("<I", 7))
    bench.call(call, [counts])
    got = [bench.read(counts, token, 1) for token in places]
    return Check(
        calls,
        lambda: exact_difference([read.words()[0] for read in got], [0] * len(places), "counts"),
    )
