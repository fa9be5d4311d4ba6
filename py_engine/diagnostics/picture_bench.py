"""Measures how long a vision tower takes for a picture, patches on the GPU to rows on the GPU."""

from __future__ import annotations

import time
from array import array
from typing import Any

from py_engine.graph.buffers import Buffers
from py_engine.serve.engine import Engine

GRID = (1, 64, 64)  # 1 megapixel in patches of 16


async def bench_picture(engine: Engine, runs: int) -> dict[str, Any]:
    """picture_ms: the median over runs, after one that makes what the others find made. {} for a model that does not
    see pictures. Raises OutOfMemoryError, DeviceLostError."""
    vision = engine._loaded.vision
    if vision is None:
        return {}
    async with engine.exclusive() as decoder:
        runner, gpu = await vision.runner(), decoder.gpu
        patches, k = GRID[0] * GRID[1] * GRID[2], vision.tower.patch.cols
        buffers = Buffers(gpu)
        times = []
        try:
            given = buffers.make("patches of the bench", patches, k)
            row = array("f", [i % 255 / 127 - 1 for i in range(k)])
            gpu.write(given.buffer, 0, row.tobytes() * patches)
            for _ in range(runs + 1):
                await gpu.idle()
                before = time.perf_counter()
                await runner.rows(given, GRID)
                await gpu.idle()
                times.append(1000 * (time.perf_counter() - before))
                vision.forget()
        finally:
            vision.forget()
            buffers.release()
    found = [round(ms, 2) for ms in times[1:]]
    return {
        "picture_patches": patches,
        "picture_ms": sorted(found)[len(found) // 2],
        "picture_ms_all": found,
        "picture_first_ms": round(times[0], 2),
    }
