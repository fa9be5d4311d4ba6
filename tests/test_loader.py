"""How the bytes of a checkpoint are cut into slices. No GPU is needed."""

from __future__ import annotations

import random

import pytest

from py_engine.graph.trace import Tensor
from py_engine.sources.jobs import Job, TensorInfo
from py_engine.weights.loader import Slice, cut

TARGET = Tensor("target", (1,))


def tensors(sizes: list[int], file: str = "model.safetensors") -> list[TensorInfo]:
    """U32 tensors of these sizes in bytes, one after the other."""
    made, at = [], 100
    for i, size in enumerate(sizes):
        made.append(TensorInfo(f"{file}.{i}", "U32", (size // 4,), file, at, at + size))
        at += size
    return made


def covered(slices: list[Slice], jobs: list[Job]) -> None:
    """Check that every byte of every job is in exactly one piece, and inside its slice."""
    for job in jobs:
        pieces = sorted((a, b) for s in slices for j, a, b in s.pieces if j is job)
        assert pieces[0][0] == job.start and pieces[-1][1] == job.end
        assert all(x[1] == y[0] for x, y in zip(pieces, pieces[1:], strict=False))
    for s in slices:
        for job, a, b in s.pieces:
            assert job.tensor.file == s.file
            assert s.start <= job.tensor.start + a < job.tensor.start + b <= s.end


@pytest.mark.parametrize("seed", range(10))
def test_slices_cover_and_stay_small(seed: int) -> None:
    rng = random.Random(seed)
    most = 1 << 16
    infos = tensors([4 * rng.randint(1, 60_000) for _ in range(30)])
    infos += tensors([4 * rng.randint(1, 900) for _ in range(40)], "model-2.safetensors")
    rng.shuffle(infos)
    jobs = [Job(t, 0, t.end - t.start, "copy", TARGET, 0) for t in infos]
    slices = list(cut(jobs, most))
    covered(slices, jobs)
    assert all(s.end - s.start <= most for s in slices)
    whole = sum(t.end - t.start for t in infos)
    assert len(slices) <= whole // (most // 2) + 3, "neighbours share a slice"


@pytest.mark.parametrize("bits", [2, 3, 5, 6])
def test_repacked_tensors_are_cut_at_rows(bits: int) -> None:
    cols, rows = 96, 1000
    (info,) = tensors([rows * cols * bits // 8])
    job = Job(info, 0, info.end - info.start, "repack", TARGET, 0, bits, cols)
    slices = list(cut([job], 4096))
    covered(slices, [job])
    assert len(slices) > 1
    assert all(a % (cols * bits // 8) == 0 for s in slices for _, a, _ in s.pieces)


def test_two_jobs_may_read_the_same_bytes() -> None:
    """One tensor is cut into parts for the binding limit; scales are asked for twice."""
    (info,) = tensors([4000])
    jobs = [Job(info, 0, 4000, "copy", TARGET, 0), Job(info, 0, 2000, "f32", TARGET, 0)]
    covered(list(cut(jobs)), jobs)


def test_far_apart_tensors_are_not_read_through() -> None:
    first, last = tensors([64, 1 << 20, 64])[::2]
    jobs = [Job(t, 0, 64, "copy", TARGET, 0) for t in (first, last)]
    assert [s.end - s.start for s in cut(jobs)] == [64, 64]


def test_nothing_to_do() -> None:
    assert list(cut([])) == []
