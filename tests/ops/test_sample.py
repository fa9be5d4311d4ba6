"""The sampler against a float64 reference, draw by draw; noise against the softmax; penalties, halts, bad logits."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from py_engine.errors import InputError, ModelError
from py_engine.graph.kernels import kernels_of
from py_engine.graph.plan import Planner
from py_engine.graph.submit import SingleSubmit
from py_engine.graph.trace import Tensor
from py_engine.host.gpu import Gpu
from py_engine.ops.sample import (
    HISTOGRAM_WORDS,
    SAMPLING_BYTES,
    clear_counts,
    mark_prompt,
    pack_sampling,
    sample_greedy,
    sample_random,
)
from py_engine.ops.step import HALT_LENGTH, HALT_STOP, Pass, pack_step
from tests.conftest import Runner
from tests.ops.harness import Bench

IN_PROMPT = np.uint32(1 << 31)
V = 3001  # one size for nearly all tests: a software adapter compiles a pipeline for seconds
WHOLE = 248320  # Qwen3.5's vocabulary
LIST = 1024  # as in lib/sample_buckets.wgsl


def probabilities(
    logits: np.ndarray,
    history: np.ndarray | None = None,
    *,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    min_p: float = 0.0,
    repetition_penalty: float = 1.0,
    presence_penalty: float = 0.0,
    frequency_penalty: float = 0.0,
) -> np.ndarray:
    """float64 [V]: penalties, temperature, top-k, top-p and min-p, in the order of transformers' logits processors."""
    l = logits.astype(np.float64)  # noqa: E741
    if history is not None:
        uses = (history & ~IN_PROMPT).astype(np.float64)
        penalised = np.where(l > 0, l / repetition_penalty, l * repetition_penalty)
        l = np.where(history != 0, penalised, l)  # noqa: E741
        l = l - presence_penalty * (uses > 0) - frequency_penalty * uses  # noqa: E741
    l = l / temperature  # noqa: E741
    order = np.lexsort((np.arange(l.size), -l))
    p = np.exp(l - l.max())
    keep = np.zeros(l.size, bool)
    keep[order[: top_k or l.size]] = True
    p = np.where(keep, p, 0.0)
    before = np.zeros(l.size)
    before[order] = np.cumsum(p[order]) - p[order]
    if top_p < 1.0:
        keep &= before < top_p * p.sum()
        keep[order[0]] = True
    keep &= p >= min_p * p.max()
    p = np.where(keep, p, 0.0)
    return p / p.sum()


def pcg(v: np.ndarray) -> np.ndarray:
    state = v * np.uint32(747796405) + np.uint32(2891336453)
    word = ((state >> ((state >> np.uint32(28)) + np.uint32(4))) ^ state) * np.uint32(277803737)
    return (word >> np.uint32(22)) ^ word


def noise_reference(tokens: Any, seed: Any, count: int = 0) -> np.ndarray:
    """The documented Gumbel noise in float64. `tokens`: an array of ids, or how many; `seed` broadcasts with it."""
    tokens = np.arange(tokens) if isinstance(tokens, int) else tokens
    with np.errstate(over="ignore"):
        key = pcg(np.asarray(seed, np.uint32) ^ pcg(np.array([count + 0x9E3779B9], np.uint32)))
        u = (pcg(pcg(tokens.astype(np.uint32)) ^ key) + 0.5) / 2.0**32
    return -np.log(-np.log1p(-u))


class Sampler:
    """A buffer of logits with the sampler's dispatches, to run with different settings."""

    def __init__(self, gpu: Gpu, run: Runner, logits: np.ndarray, *, greedy: bool = False) -> None:
        self.run = run
        self.bench = Bench(gpu)
        self.gpu = gpu
        self.values = logits.astype(np.float32)
        if logits.size < V and logits.size > 1:
            self.values = np.pad(self.values, (0, V - logits.size), constant_values=-np.inf)
        put = self.bench.put
        self.logits = put("logits", self.values)
        self.sampling = put("sampling", np.zeros(SAMPLING_BYTES // 4, np.uint32))
        self.counts = put("counts", np.zeros(self.values.size, np.uint32))
        self.step = put("step", np.zeros(8, np.uint32))
        self.ids = put("ids", np.zeros(64, np.uint32))
        self.trace = Pass(64, step=self.step)
        if greedy:
            sample_greedy(self.trace, self.ids, self.logits, self.sampling, self.counts)
        else:
            self.histogram = put("histogram", np.zeros(HISTOGRAM_WORDS, np.uint32))
            sample_random(
                self.trace, self.ids, self.logits, self.sampling, self.counts, self.histogram
            )
        self.planner = Planner(gpu, kernels_of(gpu), SingleSubmit())
        self.planner.reserve([self.trace])
        run(self.planner.allocate())
        self.plan = run(self.planner.lower([self.trace]))

    def write(self, tensor: Tensor, data: Any) -> None:
        assert tensor.binding is not None
        self.gpu.write(
            tensor.binding.buffer, 0, data if isinstance(data, bytes) else data.tobytes()
        )

    def step_words(self) -> np.ndarray:
        return self.run(self.bench.get(self.step))

    def replay(self) -> None:
        """Run the dispatches once."""
        self.run(self.gpu.replay(self.plan.recording))

    def token(self, *, count: int = 0, **settings: Any) -> int:
        self.write(self.sampling, pack_sampling(**settings))
        self.write(self.step, pack_step(pos=0, rows=1, limit=1000000, count=count))
        self.replay()
        return int(self.step_words()[0])

    def close(self) -> None:
        self.planner.release()
        self.bench.close()


def spread(v: int, seed: int = 0, size: float = 2.5) -> np.ndarray:
    return (size * np.random.default_rng(seed).standard_normal(v)).astype(np.float32)


@pytest.mark.parametrize("v", [1, V, 524288])
def test_greedy_takes_the_best_and_the_lowest_of_equals(gpu: Gpu, run: Runner, v: int) -> None:
    logits = spread(v)
    best = v // 3
    logits[best] = logits[v - 1] = 50.0  # the second in the last, partial run
    for greedy in (True, False):  # temperature 0 means the same in both sequences
        s = Sampler(gpu, run, logits, greedy=greedy)
        assert len(s.plan.dispatches) == (2 if greedy else 3)
        assert s.token(temperature=0.0, top_p=0.5, min_p=0.9) == best
        s.close()


def test_greedy_is_not_fooled_by_nan_and_infinity(gpu: Gpu, run: Runner) -> None:
    logits = np.full(V, -np.inf, np.float32)
    logits[::7] = np.nan
    logits[::9] = -np.array(np.nan, np.float32)
    logits[2501], logits[700] = -3.0, -4.0
    for greedy in (True, False):
        s = Sampler(gpu, run, logits, greedy=greedy)
        assert s.token(temperature=0.0) == 2501
        s.close()
    s = Sampler(gpu, run, logits)
    drawn = {s.token(temperature=1.0, seed=i) for i in range(12)}
    assert drawn == {2501, 700}
    s.close()


@pytest.mark.parametrize("v, draws", [(6, 20000), (3000, 20000)])
def test_noise_gives_the_softmax(v: int, draws: int) -> None:
    """The noise alone (NumPy, no GPU): the chi square of draws over seeds and counts stays below the quantile that it
    exceeds once in a million."""
    logits = spread(v, 1, 1.5)
    drawn = [int((logits + noise_reference(v, i // 100, i % 100)).argmax()) for i in range(draws)]
    observed, expected = np.bincount(drawn, minlength=v), draws * probabilities(logits)
    rare = expected < 20
    bins = [*zip(observed[~rare], expected[~rare], strict=True)]
    bins.append((observed[rare].sum(), max(expected[rare].sum(), 1e-9)))
    df = len(bins) - 1
    # Wilson & Hilferty's cube-root normal approximation of the quantile (4.75 sigma).
    quantile = df * (1 - 2 / (9 * df) + 4.75 * math.sqrt(2 / (9 * df))) ** 3
    assert sum((o - e) ** 2 / e for o, e in bins if e > 1e-6) < quantile


SETTINGS: list[dict[str, Any]] = [
    {},
    {"temperature": 0.5, "top_p": 0.9},
    {"top_k": 5, "temperature": 3.0},
    {"top_p": 0.04},
    {"top_p": 0.0},
    {"min_p": 0.3},
    {"top_k": 12, "top_p": 0.9, "min_p": 0.15, "temperature": 1.7},
    {"top_k": 1000, "top_p": 0.6},  # the list is nearly full
    {"top_k": 2000, "top_p": 0.9},  # beyond the list
]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@pytest.mark.parametrize("shape", ["normal", "few", "flat", "penalised"])
def test_draws_are_those_of_the_reference(
    gpu: Gpu, run: Runner, settings: dict[str, Any], shape: str
) -> None:
    """Every draw is the one of the float64 distribution with the documented noise, on every host.

    Draws whose two best scores nearly tie are left out. `flat` spreads its weight evenly, so top-p has to find its
    border among thousands of tokens. In `few` only 24 logits are not -inf.
    """
    rng = np.random.default_rng(2)
    logits = {
        "normal": spread(V, 3),
        "penalised": spread(V, 4),
        "few": np.pad(spread(24, 1, 1.5), (0, V - 24), constant_values=-np.inf),
        "flat": rng.permutation(np.linspace(-2.0, 0.0, V)),
    }[shape].astype(np.float32)
    s = Sampler(gpu, run, logits)
    history = np.zeros(V, np.uint32)
    if shape == "penalised":
        history = rng.integers(0, 4, V).astype(np.uint32)
        history[::3] |= IN_PROMPT
        settings = settings | {
            "repetition_penalty": 1.2,
            "presence_penalty": 0.6,
            "frequency_penalty": 0.3,
        }
    p = probabilities(logits, history, **settings)
    told = 0
    for i in range(6):
        with np.errstate(divide="ignore"):
            scores = np.log(p) + noise_reference(V, i, 3 * i)
        first, second = np.argsort(-scores)[:2]
        if scores[first] - scores[second] > 1e-4:
            told += 1
            options = {"temperature": 1.0, **settings}
            s.write(s.counts, history)
            assert s.token(seed=i, count=3 * i, **options) == first
    assert told >= 4
    s.close()


def support(s: Sampler, n: int, **settings: Any) -> set[int]:
    """The set of tokens that n seeds draw."""
    return {s.token(seed=i * 7919 + 13, **settings) for i in range(n)}


def test_equal_logits_at_the_border_of_top_k(gpu: Gpu, run: Runner) -> None:
    """Of equal logits the tokens with the lowest ids stay, in whatever order the list was filled."""
    logits = np.full(V, -9.0, np.float32)
    logits[5::4] = 0.0  # 749 tokens, which fit the list
    s = Sampler(gpu, run, logits)
    assert support(s, 24, temperature=1.0, top_k=3) == {5, 9, 13}
    s.close()


FILTERS = [(1, 1.0), (20, 1.0), (64, 1.0), (1023, 1.0), (1024, 1.0)]  # (top_k, top_p)
FILTERS += [(20, 0.8), (1024, 0.9), (0, 0.1), (0, 0.8), (0, 0.999), (2000, 0.99)]
TEMPERATURES = {"real": 1.0, "flat": 0.9, "peaked": 6.0, "equal": 1.0, "steps": 1.5}


def vocabulary(shape: str) -> np.ndarray:
    """float32 [WHOLE] logits. `real`: like a language model's, frequent tokens first; `flat`: all within 1 nat."""
    rng = np.random.default_rng(5)
    noise = rng.standard_normal(WHOLE)
    logits = {
        "real": 12 - 1.1 * np.log1p(np.arange(WHOLE)) + 2.3 * noise,
        "flat": rng.permutation(np.linspace(-1.0, 0.0, WHOLE)),
        "peaked": 1.5 * noise + 14 * (noise > 4.2),
        "equal": np.full(WHOLE, -3.25),
        "steps": np.floor(4 * noise) / 4,  # hundreds of equal logits at each value
    }[shape]
    return logits.astype(np.float32)


@functools.cache
def seeds_that_tell(shape: str, top_k: int, top_p: float) -> list[tuple[int, int]]:
    """Draws (seed, token) that give another token if the filters keep one token more or less than in float64.

    With one seed the last token that stays wins. With the other, the first token that is filtered out would win. For
    top-p these are the last and first tokens whose running share is beyond the documented bounds, or any of the 0.1 %
    nearest to them, because a single one of a hundred thousand tokens hardly ever wins.
    """
    logits = vocabulary(shape).astype(np.float64) / TEMPERATURES[shape]
    order = np.lexsort((np.arange(WHOLE), -logits))
    d = logits[order[0]] - logits[order]
    stays = goes = top_k or WHOLE
    if top_p < 1.0:
        shares = np.exp(-d[:stays]) / np.exp(-d[:stays]).sum()
        before = np.cumsum(shares) - shares
        bound = 1e-5
        bucket = np.floor(64 * d[:stays]) == np.floor(64 * d[(before < top_p).sum() - 1])
        if not top_k and bucket.sum() > LIST and np.ptp(d[:stays][bucket]) > 0:
            bound += 0.004 * shares[bucket].sum()
        if top_k > LIST:
            bucket = np.floor(64 * d) == np.floor(64 * d[top_k - 1])
            bound += 0.004 * np.exp(-d[bucket]).sum() / np.exp(-d[:stays]).sum()
        stays = max(int((before < top_p - bound).sum()), 1)
        goes = max(int((before < top_p + bound).sum()), 1)
    near = max(stays // 1000, 1) if stays > LIST else 1

    def wins(seed: int, n: int) -> int | None:
        """The place of the winner among the best n tokens; None if another one comes close."""
        scores = noise_reference(order[:n], seed) - d[:n]
        first = int(scores.argmax())
        scores[first] -= 1e-4
        return first if int(scores.argmax()) == first else None

    told: list[tuple[int, int]] = []
    for low, high in ((stays - near, stays), (goes, min(goes + near, WHOLE))):
        found = 0
        for batch in range(24):
            seeds = np.arange(1 << 14, dtype=np.uint32) + np.uint32(batch << 14)
            if low == high or found > 0:
                break
            own = (noise_reference(order[low:high, None], seeds) - d[low:high, None]).max(0)
            for seed in seeds[np.argpartition(-own, 4)[:4]].tolist():
                at = wins(seed, high)
                winner = wins(seed, goes)
                if at is not None and at >= low and winner is not None and winner < stays:
                    told.append((seed, int(order[winner])))
                    found += 1
                    break
    return told


@pytest.mark.parametrize("shape", TEMPERATURES)
def test_filters_over_a_whole_vocabulary(
    gpu: Gpu, run: Runner, shape: str, skip_unless_slow: Callable[[], None]
) -> None:
    """Top-k up to 1024 is exact, also before top-p. Top-p alone keeps its bounds, whatever lies at the border."""
    if gpu.info.host == "dawn" and shape != "real":
        skip_unless_slow()  # each takes ten seconds on SwiftShader
    s = Sampler(gpu, run, vocabulary(shape))
    for top_k, top_p in FILTERS:
        told = seeds_that_tell(shape, top_k, top_p)
        assert told, f"top_k {top_k}, top_p {top_p}: nothing was tested"
        for seed, token in told:
            settings: dict[str, Any] = {
                "top_k": top_k,
                "top_p": top_p,
                "temperature": TEMPERATURES[shape],
            }
            assert s.token(seed=seed, **settings) == token, settings
    assert not run(s.bench.get(s.histogram)).any()  # cleared for the next token
    s.close()


def test_penalties(gpu: Gpu, run: Runner) -> None:
    """The repetition penalty sees prompt and answer; presence and frequency see the answer only. Greedy and sampled."""
    rng = np.random.default_rng(8)
    logits = spread(600, 8)
    history = rng.integers(0, 4, 600).astype(np.uint32)
    history[rng.random(600) < 0.3] |= IN_PROMPT
    history[rng.random(600) < 0.3] = 0
    padded = np.pad(history, (0, V - 600))
    variants: tuple[dict[str, Any], ...] = (
        {"repetition_penalty": 1.8},
        {"presence_penalty": 1.5},
        {"frequency_penalty": 0.7},
        {"repetition_penalty": 1.3, "presence_penalty": -0.5, "frequency_penalty": 1.1},
        {"repetition_penalty": 0.5},
    )
    for settings in variants:
        order = np.argsort(-probabilities(logits, history, **settings))
        for greedy in (True, False):
            s = Sampler(gpu, run, logits, greedy=greedy)
            s.write(s.counts, padded)
            assert s.token(**settings) == order[0]
            if not greedy:
                drawn = set()
                for i in range(16):
                    s.write(s.counts, padded)
                    drawn.add(s.token(temperature=3.0, top_k=2, seed=i, **settings))
                assert drawn == set(order[:2].tolist())
            s.close()


def test_prompt_and_answer_are_counted(gpu: Gpu, run: Runner) -> None:
    s = Sampler(gpu, run, spread(100, 9), greedy=True)
    trace = Pass(64, step=s.step)
    clear_counts(trace, s.counts)
    mark_prompt(trace, s.ids, s.counts)
    s.write(s.counts, np.full(V, 5, np.uint32))
    s.write(s.ids, np.array([3, 99, 3, 40] + [7] * 60, np.uint32))
    s.write(s.step, pack_step(pos=0, rows=3, limit=9))
    run(s.bench.run(trace))
    want = np.zeros(V, np.uint32)
    want[[3, 99]] = IN_PROMPT
    assert (run(s.bench.get(s.counts)) == want).all()
    best = int(s.values.argmax())
    for n in (1, 2):
        s.replay()
        want[best] = (want[best] & IN_PROMPT) | np.uint32(n)
        assert (run(s.bench.get(s.counts)) == want).all()
    s.close()


@pytest.mark.parametrize("greedy", [True, False])
def test_step_goes_on_and_halts(gpu: Gpu, run: Runner, greedy: bool) -> None:
    """The step after a prefill of 7 rows, after a token that reaches the limit, and after a stop token. Runs after
    a halt change nothing."""
    logits = spread(100, 10)
    best = int(logits.argmax())
    s = Sampler(gpu, run, logits, greedy=greedy)
    s.write(s.sampling, pack_sampling(stop_ids=(1 if best != 1 else 2,)))
    s.write(s.step, pack_step(pos=20, rows=7, limit=2))
    s.replay()
    assert s.step_words()[:6].tolist() == [best, 0, 27, 1, 1, 2]
    assert run(s.bench.get(s.ids))[0] == best
    s.replay()
    assert s.step_words()[:6].tolist() == [best, HALT_LENGTH, 28, 2, 1, 2]
    counts = run(s.bench.get(s.counts))
    for _ in range(2):
        s.replay()
    assert s.step_words()[:6].tolist() == [best, HALT_LENGTH, 28, 2, 1, 2]
    assert (run(s.bench.get(s.counts)) == counts).all()

    stops = tuple(range(200, 215)) + (best,)
    s.write(s.sampling, pack_sampling(stop_ids=stops))
    s.write(
        s.step, pack_step(pos=5, rows=1, limit=1)
    )  # the stop token is also the last allowed one
    s.replay()
    assert s.step_words()[:6].tolist() == [best, HALT_STOP, 6, 1, 1, 1]
    s.close()


def test_what_is_refused() -> None:
    with pytest.raises(InputError, match="17 stop ids"):
        pack_sampling(stop_ids=range(17))
    assert len(pack_sampling(temperature=0.7, stop_ids=range(16))) == SAMPLING_BYTES
    x = Tensor("x", (600000,))
    with pytest.raises(ModelError, match="600000 tokens"):
        sample_greedy(Pass(1, step=x), x, x, x, x)
