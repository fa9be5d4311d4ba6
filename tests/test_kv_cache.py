"""The KV cache at another size: few buffers, the same content, no more memory than it was allowed, all or nothing."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from py_engine.blocks.kv_cache import KV_DTYPES, KvCache, KvDtype
from py_engine.errors import OutOfMemoryError
from py_engine.graph.kernels import Kernels
from py_engine.graph.trace import Tensor
from py_engine.graph.transfer import Transfer
from py_engine.host.gpu import Gpu
from py_engine.host.gpu_counting import CountingGpu
from py_engine.serve.runtime import build_runtime
from py_engine.serve.source import RandomSource
from tests.conftest import Runner

ROWS = 21
PLENTY = 1 << 20
# Heads and head sizes of layers that differ, as Gemma's local and global ones do. An eighth of them are three.
LAYERS = [(1 + i % 3, 32 * (1 + i % 2)) for i in range(20)]


def make(gpu: Gpu, capacity: int, dtype: KvDtype = "f16") -> KvCache:
    cache = KvCache(gpu, dtype, capacity)
    for i, (heads, head_dim) in enumerate(LAYERS):
        cache.add(f"layer {i}", heads, head_dim)
    return cache


@pytest.fixture(params=KV_DTYPES)
def cache(gpu: Gpu, run: Runner, request: pytest.FixtureRequest) -> Iterator[KvCache]:
    """With random bytes in its rows."""
    live = gpu.counters.live_bytes
    made = make(gpu, 32, request.param)
    run(fill(gpu, made))
    yield made
    made.release()
    assert gpu.counters.live_bytes == live


async def fill(gpu: Gpu, cache: KvCache) -> None:
    async with Transfer(gpu, cache.spans(ROWS)) as transfer:
        data = random.Random(3).randbytes(transfer.nbytes)
        for start, end in transfer.slices():
            await transfer.write(start, end, data[start:end])


def content(gpu: Gpu, run: Runner, cache: KvCache) -> bytes:
    async def read() -> bytes:
        async with Transfer(gpu, cache.spans(ROWS)) as transfer:
            return b"".join([bytes(await transfer.read(*part)) for part in transfer.slices()])

    return run(read())


def resize(run: Runner, cache: KvCache, capacity: int, most: int = PLENTY) -> dict[Tensor, Tensor]:
    """Returns what replaced what."""
    told: dict[Tensor, Tensor] = {}
    run(cache.resize(capacity, min(ROWS, capacity), most, told.__setitem__))
    return told


def flat(cache: KvCache) -> list[Tensor]:
    return [tensor for pair in cache.tensors for tensor in pair]


def check_places(gpu: Gpu, cache: KvCache) -> None:
    """Each tensor is bound to its own bytes, at an offset that a binding may have, and no two overlap."""
    ends: dict[Any, int] = {}
    for tensor in flat(cache):
        binding = tensor.binding
        assert binding is not None
        assert binding.nbytes == tensor.nbytes
        assert binding.offset % 256 == 0
        assert binding.offset >= ends.get(binding.buffer, 0)
        ends[binding.buffer] = binding.offset + tensor.nbytes
        assert ends[binding.buffer] <= binding.buffer.nbytes <= gpu.limits.max_buffer_bytes
    assert cache.nbytes == sum(buffer.nbytes for buffer in ends)


@pytest.mark.parametrize("most", [PLENTY, 1], ids=["at once", "one after another"])
def test_an_eighth_of_the_layers_in_one_buffer(
    gpu: Gpu, run: Runner, cache: KvCache, most: int
) -> None:
    before = content(gpu, run, cache)
    for capacity in (96, 64):
        old, made = flat(cache), gpu.counters.buffers_created
        told = resize(run, cache, capacity, most)
        assert told == dict(zip(old, flat(cache), strict=True))
        assert gpu.counters.buffers_created - made == 7
        assert [(k.shape, v.shape) for k, v in cache.tensors] == [
            ((heads, capacity, dim),) * 2 for heads, dim in LAYERS
        ]
        check_places(gpu, cache)
        assert content(gpu, run, cache) == before


def test_parts_of_any_size(gpu: Gpu, run: Runner, cache: KvCache) -> None:
    """Layers leave the buffers that they share in parts; a buffer is freed when its last layer has left it."""
    before = content(gpu, run, cache)
    told: dict[Tensor, Tensor] = {}
    for capacity, most, layers in ((96, 1 << 30, 20), (64, 60_000, 3), (96, 1, 1), (64, 60_000, 3)):
        while parts := cache.parts(capacity, most):
            assert len(parts[0]) <= layers
            assert sorted(i for part in parts for i in part) == [
                i for i, (k, _) in enumerate(cache.tensors) if k.shape[1] != capacity
            ]
            run(cache.move(parts[0], capacity, ROWS, told.__setitem__))
            check_places(gpu, cache)
        assert cache.capacity == capacity
        assert content(gpu, run, cache) == before


@pytest.mark.parametrize("most", [PLENTY, 1], ids=["at once", "one after another"])
def test_whichever_buffer_is_refused(
    wgpu: Gpu, run: Runner, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    """Nothing more stays allocated, and the content is where it was."""
    gpu = wgpu
    cache = make(gpu, 32)
    run(fill(gpu, cache))
    before = content(gpu, run, cache)
    resize(run, cache, 64)
    live, create = gpu.counters.live_bytes, gpu.create_buffer
    try:
        for refused in dict.fromkeys(tensor.buffer.label for tensor in flat(cache)):

            def refusing(
                label: str, nbytes: int, kind: Any = "storage", refused: str = refused
            ) -> Any:
                if label == refused and nbytes > 64 * 1024:
                    raise OutOfMemoryError(f"no room for {label}")
                return create(label, nbytes, kind)

            with monkeypatch.context() as patch:
                patch.setattr(gpu, "create_buffer", refusing)
                with pytest.raises(OutOfMemoryError, match=refused):
                    resize(run, cache, 1024, most)
            assert (gpu.counters.live_bytes, cache.capacity) == (live, 64)
            assert content(gpu, run, cache) == before
    finally:
        cache.release()


@pytest.mark.parametrize(("limit", "buffers"), [(100_000, 7), (50_000, 13), (24_576, 23)])
def test_buffers_as_large_as_the_device_allows(
    wgpu: Gpu, run: Runner, monkeypatch: pytest.MonkeyPatch, limit: int, buffers: int
) -> None:
    """An eighth of the layers in one or several, the largest tensors in one each."""
    gpu = wgpu
    cache = make(gpu, 32)
    run(fill(gpu, cache))
    before = content(gpu, run, cache)
    try:
        made = gpu.counters.buffers_created
        with monkeypatch.context() as patch:
            patch.setattr(gpu, "limits", replace(gpu.limits, max_buffer_bytes=limit))
            resize(run, cache, 64)
            check_places(gpu, cache)
        assert gpu.counters.buffers_created - made == buffers
        assert content(gpu, run, cache) == before
    finally:
        cache.release()


@pytest.mark.parametrize(
    ("before", "after", "checks"),
    [(512, 800, 1), (2176, 2464, 2), (3000, 3392, 5), (3776, 4096, 7)],
)
def test_memory_while_it_grows(run: Runner, before: int, after: int, checks: int) -> None:
    """As many groups of layers at a time as fit into a cache for the whole text; one at a time where none fits."""
    gpu = CountingGpu()
    cache = KvCache(gpu, "f16", before)
    for i in range(28):
        cache.add(f"layer {i}", 8, 128)
    resize(run, cache, before + 32, 4096)
    resize(run, cache, before, 4096)
    asked = 0

    async def counted() -> None:
        nonlocal asked
        asked += 1

    gpu.check = counted  # type: ignore[method-assign]
    gpu.peak_bytes = 0
    resize(run, cache, after, 4096)
    token = cache.nbytes // after
    assert asked == checks
    assert gpu.peak_bytes <= max(4096 * token, after * token + before * token // 7)


def test_a_growth_binds_what_uses_the_cache(run: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    """No other call, though all of them were bound anew to the buffers of wide chunks; and each once for all heads."""
    gpu = CountingGpu()
    source = RandomSource("random:qwen3-0.6b-4bit")

    async def planned() -> Any:
        built: Any = build_runtime(
            source.config, source.make_store(gpu, "stored"), gpu, Kernels(gpu),
            context=4096, kv_dtype="f16", exact=False, wide=True,
        )  # fmt: skip
        await built.plan()
        return built

    decoder = run(planned())
    bound: list[str] = []
    monkeypatch.setattr(gpu, "bind_group", lambda label, *_: bound.append(label))

    def grow(tokens: int) -> int:
        bound.clear()
        run(decoder.fit(tokens))
        for head in ("greedy", "sampled", "logits"):
            decoder.token_plan(head)
        return len(bound)

    layers = len(decoder.state.cache.tensors)
    assert grow(600) == layers
    run(decoder.widen())
    assert grow(600) > 2 * layers, "the residual stream is elsewhere"
    assert grow(2177) == layers
    assert grow(2177) == 0
    for call in decoder.token_plan("sampled").calls:
        caches = [t for t in call.tensors if t.shape[-1] == 128 and len(t.shape) == 3]
        assert all(t.shape[1] == decoder.state.cache.capacity for t in caches), call.label
