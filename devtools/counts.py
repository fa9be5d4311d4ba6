"""./dev counts [--write]: prints the table of docs/mobile.md that says what a token costs, or writes it into that file.

The engine's own code loads each model on a GPU that only adds up sizes (py_engine/host/gpu_counting.py), with WebGPU's
default limits and no optional feature. So no GPU is needed, and the numbers are the same everywhere.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from py_engine.blocks.kv_cache import KvDtype
from py_engine.diagnostics.traffic import Traffic
from py_engine.generate.decoder import Decoder
from py_engine.graph.kernels import Kernels
from py_engine.host.gpu import RESULT_WORDS
from py_engine.host.gpu_counting import CountingGpu
from py_engine.serve.runtime import build_runtime
from py_engine.serve.source import RandomSource

PAGE = Path(__file__).parent.parent / "docs" / "mobile.md"
BEGIN, END = "<!-- counts: ./dev counts --write -->\n", "<!-- /counts -->\n"
MODELS = ("qwen3.5-0.8b-4bit", "qwen3-0.6b-4bit", "lfm2.5-350m-4bit", "gemma3-270m-4bit")
KV = tuple(kind for kind in get_args(KvDtype) if kind != "f32")
CONTEXT = 4096
# Bytes per decoded token: the host uploads nothing and reads the result (tests/test_counts.py checks a real device).
UP, DOWN = 0, 4 * RESULT_WORDS

HEAD = (
    "model",
    "KV cache",
    "dispatches",
    "bytes up / down",
    "MB read at 512",
    "at 4,096",
    "pipelines",
    "GPU MB after 512",
    "after 4,096",
    "as one prompt",
)


@dataclass(frozen=True)
class Counts:
    """What a token and a text cost.

    `dispatches`: per token, greedy and sampled. `read`: bytes read by a token at position 512 and at CONTEXT. `held`:
    bytes of GPU memory after 512 tokens, after CONTEXT tokens in short turns, and after a prompt of CONTEXT tokens,
    whose wide prefill chunks take more.
    """

    dispatches: tuple[int, int]
    read: tuple[float, float]
    pipelines: int
    held: tuple[int, int, int]


async def count(model: str, kv: KvDtype) -> Counts:
    """Count for a preset of py_engine/weights/random.py."""
    gpu = CountingGpu()
    kernels = Kernels(gpu)
    source = RandomSource(f"random:{model}")
    decoder = build_runtime(
        source.config, source.make_store(gpu, "stored"), gpu, kernels,
        context=CONTEXT, kv_dtype=kv, exact=False, wide=True,
    )  # fmt: skip
    assert isinstance(decoder, Decoder)
    await decoder.plan()
    read, held = [], []
    for tokens in (512, CONTEXT):
        await decoder.fit(tokens)
        held.append(gpu.counters.live_bytes)
        traffic = Traffic(decoder.model, decoder.state, decoder.sampler.logits)
        plan = decoder.token_plan("greedy")
        read.append(traffic.of_plans([plan], 1, tokens - 1).lasting)
    await decoder.widen()
    held.append(gpu.counters.live_bytes)
    pipelines = len({call.kernel for call in decoder.programs.calls})
    greedy, sampled = (len(decoder.token_plan(h).dispatches) for h in ("greedy", "sampled"))
    return Counts((greedy, sampled), (read[0], read[1]), pipelines, (held[0], held[1], held[2]))


def table() -> str:
    """Return the table as Markdown."""
    rows = [HEAD, ["---"] * len(HEAD)]
    for model in MODELS:
        for kv in KV:
            c = asyncio.run(count(model, kv))
            rows.append(
                [
                    f"`{model}`",
                    kv,
                    f"{c.dispatches[0]} / {c.dispatches[1]}",
                    f"{UP} / {DOWN}",
                    *(f"{nbytes / 1e6:,.1f}" for nbytes in c.read),
                    str(c.pipelines),
                    *(f"{nbytes / 1e6:,.1f}" for nbytes in c.held),
                ]
            )
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def main(arguments: list[str]) -> int:
    """Run the command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="dev counts", description=__doc__)
    parser.add_argument("--write", action="store_true", help=f"put it into {PAGE.name}")
    if not parser.parse_args(arguments).write:
        print(table(), end="")
        return 0
    text = PAGE.read_text(encoding="utf-8")
    before, rest = text.split(BEGIN)
    PAGE.write_text(before + BEGIN + "\n" + table() + "\n" + END + rest.split(END)[1], "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
