"""The commands `bench`, `estimate` and `doctor`."""

from __future__ import annotations

import argparse
import json
from typing import Any

from py_engine.cli.common import at_least_one, load_engine, open_device, say
from py_engine.cli.parser import SAMPLING
from py_engine.errors import InputError


async def bench_command(args: argparse.Namespace) -> None:
    """`bench`: measure a model, or with --load how long its stored weights take to load."""
    at_least_one(args, "prompt_tokens", "new_tokens", "runs")
    if args.load:
        print(json.dumps(await _bench_load(args)))
        return
    from py_engine.diagnostics.bench import BenchOptions, bench
    from py_engine.diagnostics.tables import profile_text
    from py_engine.generate.sampling import Sampling

    sampling = {k: getattr(args, k) for k in SAMPLING if getattr(args, k) is not None}
    Sampling.make(Sampling(), sampling, ())
    options = BenchOptions(
        args.prompt_tokens, args.new_tokens, args.runs, sampling, args.probe, args.profile
    )
    async with await load_engine(args) as engine:
        result = await bench(engine, options)
    if args.json:
        print(json.dumps(result))
        return
    found = result.pop("profile", None)
    print(json.dumps(result, indent=2))
    if found:
        print(profile_text(found))


async def _bench_load(args: argparse.Namespace) -> dict[str, Any]:
    from py_engine.diagnostics.load_bench import bench_load
    from py_engine.host import open_io

    gpu, io = await open_device(args.host), open_io()
    try:
        return await bench_load(args.model, gpu, io, args.runs, say, args.dtype)
    finally:
        io.close()
        gpu.close()


async def estimate(args: argparse.Namespace) -> None:
    """`estimate`: print the GPU memory that a load would take."""
    from py_engine.serve.engine import Engine

    found = await Engine.estimate(
        args.model, host=args.host, dtype=args.dtype, kv=args.kv, vision=args.vision,
        context=args.context,
    )  # fmt: skip
    if args.json:
        print(json.dumps({"model": args.model, **found.to_dict()}))
    else:
        print(f"{args.model} with a context of {found.context}: {found} of GPU memory")


async def doctor(args: argparse.Namespace) -> None:
    """`doctor`: print what the GPU is and can do, or with --probes test how it runs dispatches."""
    from py_engine.diagnostics.report import report

    if args.probes is not None:
        await _probe(args.host, args.probes)
        return
    result = await report(args.host)
    if args.json:
        print(json.dumps(result))
    else:
        for key, value in result.items():
            print(key if isinstance(value, dict) else f"{key:<24} {value}")
            for name, number in value.items() if isinstance(value, dict) else ():
                print(f"  {name:<22} {number}")


async def _probe(host: str | None, names: list[str]) -> None:
    """Run dispatch tests and print a line of JSON for each result; the last line counts them."""
    from py_engine.diagnostics.dispatch_tests import TESTS, run_dispatch_tests

    for name in names:
        if name not in TESTS:
            raise InputError(f"--probes: no dispatch test {name!r}: known are {', '.join(TESTS)}")

    async def tell(row: dict[str, Any]) -> None:
        print(json.dumps(row), flush=True)

    gpu = await open_device(host)
    try:
        await tell({"phase": "done", **await run_dispatch_tests(gpu, tell, names or None)})
    finally:
        gpu.close()
