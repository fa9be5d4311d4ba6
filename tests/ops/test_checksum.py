"""The checksum against NumPy's integers: every slicing gives the same sum, and damage changes it."""

from __future__ import annotations

import numpy as np
import pytest

from py_engine.graph.trace import Trace
from py_engine.host.gpu import Gpu
from py_engine.ops.checksum import Part, checksum, pack, unpack
from tests.conftest import Runner
from tests.ops.harness import Bench
from tests.ops.test_layout import pcg

SIZES = (1, 2, 255, 256, 257, 16384, 16385, 70_001)


def reference(words: np.ndarray) -> int:
    """The sum of a whole tensor."""
    with np.errstate(over="ignore"):
        p = pcg(np.arange(words.size, dtype=np.uint32))
        q = pcg(p + np.uint32(0x9E3779B9))
        low = int(pcg(words ^ p).sum(dtype=np.uint32))
        high = int(pcg(words + q).sum(dtype=np.uint32))
    return low | high << 32


def measured(
    gpu: Gpu, run: Runner, words: np.ndarray, parts: list[Part], slots: int, dispatches: int = 1
) -> list[int]:
    """The kernel's sums for `parts`, which are spread over this many dispatches."""
    bench = Bench(gpu)
    data = bench.put("data", words)
    sums = bench.put("sums", np.zeros((slots, 2), np.uint32))
    trace = Trace(1)
    for i in range(dispatches):
        some = parts[i::dispatches]
        table = bench.put("table", np.frombuffer(pack(some), np.uint32))
        checksum(trace, data, table, sums, some)
    run(bench.run(trace))
    got = unpack(run(bench.get(sums)).tobytes())
    bench.close()
    return got


def random_words(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 2**32, n, dtype=np.uint32)


def test_whole_tensors_of_all_sizes_in_one_dispatch(gpu: Gpu, run: Runner) -> None:
    words = random_words(sum(SIZES))
    starts = np.cumsum([0, *SIZES[:-1]])
    parts = [Part(int(a), n, 0, i) for i, (a, n) in enumerate(zip(starts, SIZES, strict=True))]
    want = [reference(words[a : a + n]) for a, n in zip(starts, SIZES, strict=True)]
    assert measured(gpu, run, words, parts, len(SIZES)) == want


@pytest.mark.parametrize("seed", range(3))
def test_slices_add_up_in_any_order(gpu: Gpu, run: Runner, seed: int) -> None:
    rng = np.random.default_rng(seed)
    words = random_words(100_000, seed)
    cuts = [0, *sorted(rng.choice(np.arange(1, 100_000), 9, replace=False).tolist()), 100_000]
    parts = [Part(a, b - a, a, 1) for a, b in zip(cuts, cuts[1:], strict=False)]
    rng.shuffle(parts)
    assert measured(gpu, run, words, parts, 2, dispatches=3) == [0, reference(words)]


def test_places_beyond_the_slice(gpu: Gpu, run: Runner) -> None:
    """The sum depends on a word's index in the tensor (up to 16 GiB), not on its place in the buffer."""
    words = random_words(5000)
    far = Part(0, 5000, 0xFFFF_0000, 0)
    assert measured(gpu, run, words, [far], 1) != measured(
        gpu, run, words, [Part(0, 5000, 0, 0)], 1
    )


def damaged(words: np.ndarray) -> list[tuple[str, np.ndarray]]:
    """Copies with the damage that disks, tabs and bugs cause, each with its name."""
    rng = np.random.default_rng(9)
    made = []
    for bit in rng.choice(32 * words.size, 40, replace=False).tolist():
        copy = words.copy()
        copy[bit // 32] ^= np.uint32(1 << bit % 32)
        made.append((f"bit {bit}", copy))
    for a, b in rng.choice(words.size, (20, 2), replace=False).tolist():
        copy = words.copy()
        copy[[a, b]] = copy[[b, a]]
        made.append((f"swapped {a} {b}", copy))
    for step in (1, 3, 1024):
        made.append((f"shifted by {step}", np.roll(words, step)))
    page = words.copy()
    page[1024:2048] = 0
    made.append(("zeroed page", page))
    pages = words.copy()
    pages[0:1024], pages[2048:3072] = words[2048:3072], words[0:1024]
    made.append(("swapped pages", pages))
    twice = words.copy()
    twice[1024:2048] = words[0:1024]
    made.append(("a page twice", twice))
    half = words.copy()
    half[half.size // 2 :] = 0
    made.append(("cut short", half))
    both = words.copy()  # +1 and -1 leave a plain sum of words unchanged
    both[[10, 20]] += np.array([1, 2**32 - 1], np.uint32)
    made.append(("+1 -1", both))
    return made


def test_damage_changes_both_halves(gpu: Gpu, run: Runner) -> None:
    words = random_words(4096, 5)
    kinds = damaged(words)
    everything = np.concatenate([words, *(w for _, w in kinds)])
    parts = [Part(4096 * i, 4096, 0, i) for i in range(len(kinds) + 1)]
    sums = measured(gpu, run, everything, parts, len(parts))
    whole = sums[0]
    for (name, _), sum_ in zip(kinds, sums[1:], strict=True):
        assert sum_ & 0xFFFFFFFF != whole & 0xFFFFFFFF and sum_ >> 32 != whole >> 32, name
    assert len(set(sums)) == len(sums)


def test_zeros_are_not_nothing(gpu: Gpu, run: Runner) -> None:
    """Tensors of zeros of different sizes have different sums, none of which is 0."""
    zeros = np.zeros(3000, np.uint32)
    sums = measured(gpu, run, zeros, [Part(0, n, 0, n - 2998) for n in (2998, 2999, 3000)], 3)
    assert len({0, *sums}) == 4
