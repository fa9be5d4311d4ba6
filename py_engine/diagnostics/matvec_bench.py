"""Times the forms of matvec and matmul on this GPU: `python -m py_engine.diagnostics.matvec_bench --help`.

What it finds goes, by hand, into the `tuning` functions of ops/matvec.py and ops/matmul.py. Every dispatch reads the
next of several copies of the weights, together larger than any cache, and writes the y of the one before, so that they
follow each other as in a decode. Times are wall time over many dispatches, so they include the cost of a dispatch.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

from py_engine.graph.kernels import Kernels
from py_engine.graph.matrix import Matrix, MatrixFormat
from py_engine.graph.plan import Planner
from py_engine.graph.submit import SingleSubmit
from py_engine.graph.trace import Tensor
from py_engine.host.adapter_native import open_gpu
from py_engine.host.gpu import Binding, Buffer, Gpu
from py_engine.ops.gate import Epilogue, Finish
from py_engine.ops.matmul import MatmulTuning, matmul
from py_engine.ops.matmul import fits as matmul_fits
from py_engine.ops.matmul import tuning as matmul_tuning
from py_engine.ops.matvec import MatvecTuning, matvec
from py_engine.ops.matvec import tuning as matvec_tuning
from py_engine.ops.norm import Norm
from py_engine.ops.step import Pass, pack_step

# name: (columns, rows, epilogue, norm before); the layers of Qwen3-0.6B, and its head.
SHAPES: dict[str, tuple[int, int, Epilogue, bool]] = {
    "qkv": (1024, 4096, "store", True),
    "o": (2048, 1024, "add", False),
    "gate_up": (1024, 6144, "gated", True),
    "down": (3072, 1024, "add", False),
    "head": (1024, 151936, "store", True),
}
BITS = {"f32": 32, "f16": 16, "bf16": 16, "q4": 4, "q8": 8}
GROUP = 64


class Case:
    """The buffers of one shape: copies of the weights, x, y, and what else the kernels need."""

    def __init__(
        self, gpu: Gpu, cols: int, rows: int, form: MatrixFormat, t: int, working_set: int
    ) -> None:
        self.gpu = gpu
        self.kernels = Kernels(gpu)
        self.buffers: list[Buffer] = []
        quantised = form in ("q4", "q8")
        self.nbytes = rows * cols * BITS[form] // 8 + (rows * cols // GROUP * 4 if quantised else 0)
        copies = max(2, min(256, -(-working_set // self.nbytes)))
        self.matrices = [
            Matrix(
                rows,
                cols,
                form,
                self._tensor("weight", rows * cols * BITS[form] // 32),
                0,
                self._tensor("scales", rows * cols // GROUP) if quantised else None,
                GROUP if quantised else 0,
            )
            for _ in range(copies)
        ]
        self.x = self._tensor("x", t, cols)
        self.y = self._tensor("y", t, rows)
        self.norm = Norm(self._tensor("norm", cols), 1e-6)
        self.step = self._tensor("step", 8)
        gpu.write(self.step.buffer, 0, pack_step(pos=0, rows=t))
        self.t = t

    async def seconds(
        self, add: Callable[[Pass, Matrix], None], dispatches: int, budget_s: float
    ) -> float:
        """Seconds for one dispatch of `add`, the best of three rounds. Raises HostError when the form does not
        compile."""
        trace = Pass(self.t, self.gpu.features, self.gpu.info, step=self.step)
        for i in range(dispatches):
            add(trace, self.matrices[i % len(self.matrices)])
        planner = Planner(self.gpu, self.kernels, SingleSubmit())
        planner.reserve([trace])
        await planner.allocate()
        plan = await planner.lower([trace])
        await self.gpu.replay(plan.recording)
        await self.gpu.idle()
        start = time.perf_counter()
        await self.gpu.replay(plan.recording)
        await self.gpu.idle()
        once = time.perf_counter() - start
        times = max(1, min(200, int(budget_s / 3 / max(once, 1e-6))))
        best = once
        for _ in range(3):
            start = time.perf_counter()
            for _ in range(times):
                await self.gpu.replay(plan.recording)
            await self.gpu.idle()
            best = min(best, (time.perf_counter() - start) / times)
        planner.release()
        return best / dispatches

    def release(self) -> None:
        """Free the buffers."""
        for buffer in self.buffers:
            self.gpu.destroy_buffer(buffer)

    def _tensor(self, name: str, *shape: int) -> Tensor:
        tensor = Tensor(name, shape)
        buffer = self.gpu.create_buffer(name, max(256, tensor.nbytes))
        self.buffers.append(buffer)
        return Tensor(name, shape, "f32", Binding(buffer))


def grid(chosen: MatvecTuning, gated: bool, subgroups: bool) -> Iterator[MatvecTuning]:
    """Forms with other lanes, rows and staging than the one in use."""
    for staged in (False, True):
        for lanes in (8, 16, 32, 64):
            for rows in (2, 4, 8) if gated else (1, 2, 4, 8):
                yield replace(
                    chosen, threads=128, lanes=lanes, rows=rows, staged=staged, subgroups=subgroups
                )


def around(best: MatvecTuning, subgroups: bool) -> Iterator[MatvecTuning]:
    """Forms near the best of the grid, with another workgroup size, unpacking or reduction."""
    for unpack in (0, 1, 2):
        yield replace(best, q4_unpack=unpack)
    for threads in (32, 64, 256):
        if threads >= best.lanes and threads * (best.rows + 1) <= 1280:
            yield replace(best, threads=threads)
    yield replace(best, subgroups=not best.subgroups and subgroups)


async def bench_matvec(gpu: Gpu, name: str, form: MatrixFormat, args: argparse.Namespace) -> None:
    """Print the forms of one shape, slowest first within each round, and the form in use."""
    cols, rows, epilogue, normed = SHAPES[name]
    case = Case(gpu, cols, rows, form, 1, args.working_set << 20)
    has_subgroups = "subgroups" in gpu.features and gpu.info.subgroup_min_size >= 32
    chosen = matvec_tuning(rows, cols, gpu.features, gpu.info)
    done: dict[MatvecTuning, float] = {}

    async def measure(forms: Iterable[MatvecTuning]) -> None:
        for t in forms:
            if t in done:
                continue

            def add(trace: Pass, matrix: Matrix, t: MatvecTuning = t) -> None:
                norm = case.norm if normed else None
                matvec(
                    trace, name, case.x, matrix, case.y, norm=norm, finish=Finish(epilogue), form=t
                )

            done[t] = await case.seconds(add, args.dispatches, args.budget)

    await measure([chosen])
    if not args.quick:
        await measure(grid(chosen, epilogue == "gated", has_subgroups))
        best = min(done, key=lambda t: done[t])
        await measure(around(best, has_subgroups))
        best = min(done, key=lambda t: done[t])
        await measure(around(best, has_subgroups))
    for t, s in sorted(done.items(), key=lambda item: -item[1]):
        mark = "  <- in use" if t == chosen else ""
        print(
            f"{name:8} {form:5} {s * 1e6:9.2f} us {case.nbytes / s / 1e9:8.1f} GB/s  threads {t.threads:3} "
            f"lanes {t.lanes:2} rows {t.rows} staged {t.staged:d} subgroups {t.subgroups:d} "
            f"unpack {t.q4_unpack}{mark}",
            flush=True,
        )
    case.release()


async def bench_matmul(
    gpu: Gpu, name: str, form: MatrixFormat, t: int, args: argparse.Namespace
) -> None:
    """Print the tiles of one shape for t rows, slowest first, and the form in use."""
    cols, rows, epilogue, _ = SHAPES[name]
    case = Case(gpu, cols, rows, form, t, args.working_set << 20)
    chosen = matmul_tuning(t, gpu.info)
    forms = [chosen]
    if not args.quick:
        forms += [
            MatmulTuning(r, c, s, f16, unpack)
            for r in (1, 2, 4, 8)
            if 8 * r <= max(8, t)
            for c in (32, 64)
            for s in (1, 2, 4)
            for f16 in (False, True)
            if not f16 or "shader-f16" in gpu.features
            for unpack in ((0, 2) if r == 8 and c == 64 else (0,))
        ]
        forms = list(filter(matmul_fits, forms))
    done: dict[MatmulTuning, float] = {}
    for m in forms:

        def add(trace: Pass, matrix: Matrix, m: MatmulTuning = m) -> None:
            matmul(trace, name, case.x, matrix, case.y, finish=Finish(epilogue), form=m)

        if m not in done:
            done[m] = await case.seconds(add, max(4, args.dispatches // 8), args.budget)
    for m, s in sorted(done.items(), key=lambda item: -item[1]):
        mark = "  <- in use" if m == chosen else ""
        print(
            f"{name:8} {form:5} T {t:3} {s * 1e6:9.1f} us {2 * t * rows * cols / s / 1e12:7.2f} TFLOP/s  "
            f"rows {m.rows} cols {m.cols} slices {m.slices} f16 {m.f16:d} unpack {m.q4_unpack}{mark}",
            flush=True,
        )
    case.release()


async def main(args: argparse.Namespace) -> None:
    """Run the command line's measurements."""
    gpu = await open_gpu(args.host)
    print(gpu.info, sorted(gpu.features), flush=True)
    for form in args.formats.split(","):
        for name in args.shapes.split(","):
            if not args.matmul:
                await bench_matvec(gpu, name, form, args)
            for t in map(int, args.matmul.split(",") if args.matmul else ()):
                await bench_matmul(gpu, name, form, t, args)
    gpu.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--host", default="dawn", choices=("dawn", "wgpu"))
    parser.add_argument("--shapes", default=",".join(SHAPES), help="of " + ", ".join(SHAPES))
    parser.add_argument("--formats", default="q4", help="of " + ", ".join(BITS))
    parser.add_argument(
        "--matmul", default="", help="time matmul for these numbers of rows instead, e.g. 512,32,8"
    )
    parser.add_argument("--quick", action="store_true", help="only the forms in use")
    parser.add_argument("--dispatches", type=int, default=256, help="in one submit")
    parser.add_argument(
        "--budget", type=float, default=0.06, help="seconds of measuring for a form"
    )
    parser.add_argument("--working-set", type=int, default=512, help="MiB of weight copies")
    sys.exit(asyncio.run(main(parser.parse_args())))
