"""The command line: python -m py_engine COMMAND. Results go to stdout, everything else to stderr."""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from py_engine.errors import EngineError, InputError

# The engine is imported by the commands that run it: `convert` and `--help` need none of it.
if TYPE_CHECKING:
    from py_engine.generate.answer import Answer, Generation
    from py_engine.host.io import Io
    from py_engine.serve.engine import Engine
    from py_engine.serve.loading import Progress


SAMPLING = {
    "temperature": float,
    "top_k": int,
    "top_p": float,
    "presence_penalty": float,
}  # of bench


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. Exit code 1 after an EngineError, 2 for a wrong command line."""
    args = _parser().parse_args(argv)
    try:
        return int(asyncio.run(args.run(args)) or 0)
    except EngineError as error:
        if getattr(args, "json", False):
            print(json.dumps({"error": {"type": error.type, "message": str(error)}}))
        else:
            print(f"{error.type}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


async def _generate(args: argparse.Namespace) -> None:
    async with await _load(args) as engine:
        options: dict[str, Any] = {"max_tokens": args.max_tokens, "seed": args.seed}
        if args.temperature is not None:
            options["temperature"] = args.temperature
        if args.chat:
            messages = [{"role": "user", "content": args.prompt}]
            tools = _read_tools(args.tools) if args.tools else None
            generation = engine.chat(messages, tools=tools, enable_thinking=args.think, **options)
        elif args.tools or args.think is not None:
            raise InputError("--think, --no-think and --tools go through the template: add --chat")
        else:
            generation = engine.complete(args.prompt, **options)
        if not args.json:
            await _print_deltas(generation)
        answer = await generation
        for problem in answer.tool_call_errors:
            print(problem, file=sys.stderr)
        if args.json:
            print(json.dumps(_report(engine, answer)))
        else:
            t = answer.timings
            print(
                f"{answer.prompt_tokens} + {answer.completion_tokens} tokens, first after {t.ttft_s:.2f} s, "
                f"prefill {t.prefill_tps:.1f}, decode {t.decode_tps:.1f} tokens/s",
                file=sys.stderr,
            )


async def _print_deltas(generation: Generation) -> None:
    """The answer and its tool calls, a JSON object each, to stdout; what the model thinks to stderr."""
    thinking = False
    async for delta in generation:
        print(delta.reasoning, end="", flush=True, file=sys.stderr)
        if thinking and (delta.text or delta.tool_calls):
            print("\n", file=sys.stderr)
        thinking = bool(delta.reasoning) or (thinking and not (delta.text or delta.tool_calls))
        print(delta.text, end="", flush=True)
        for call in delta.tool_calls:
            print(f"\n{json.dumps(call, ensure_ascii=False)}", end="", flush=True)
    print()


def _read_tools(path: str) -> Any:
    """The tools of a file, for Engine.chat to check."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(
            f"--tools {path}: give a JSON file with a list of tools ({error})"
        ) from error


def _report(engine: Engine, answer: Answer) -> dict[str, Any]:
    info = engine.info()
    return {
        "tokens": answer.tokens,
        "text": answer.text,
        "reasoning": answer.reasoning,
        "tool_calls": answer.tool_calls,
        "prompt_tokens": answer.prompt_tokens,
        "finish_reason": answer.finish_reason,
        "timings": asdict(answer.timings),
        "plan": info["plan"],
        "memory": info["memory"],
        "traffic": info["traffic"],
        "adapter": info["adapter"],
    }


async def _logits(args: argparse.Namespace) -> None:
    try:
        ids = [int(part) for part in args.ids.split(",")]
    except ValueError as error:
        raise InputError(f"--ids {args.ids}: give token ids like 1,2,3") from error
    async with await _load(args) as engine:
        logits = await engine.logits(ids)
    _write_npy(Path(args.out), logits)
    best = max(range(len(logits)), key=logits.__getitem__)
    print(f"{len(logits)} logits in {args.out}, best {best} ({logits[best]:.6g})", file=sys.stderr)


def _write_npy(path: Path, values: memoryview[float]) -> None:
    """A float32 vector as NumPy's .npy, version 1.0 (numpy.lib.format)."""
    head = f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({len(values)},), }}".encode()
    head += b" " * (-(len(head) + 11) % 64) + b"\n"
    path.write_bytes(
        b"\x93NUMPY\x01\x00" + len(head).to_bytes(2, "little") + head + values.tobytes()
    )


async def _bench(args: argparse.Namespace) -> None:
    if args.load:
        print(json.dumps(await _bench_load(args)))
        return
    from py_engine.diagnostics.bench import BenchOptions, bench
    from py_engine.diagnostics.tables import profile_text

    sampling = {k: getattr(args, k) for k in SAMPLING if getattr(args, k) is not None}
    options = BenchOptions(
        args.prompt_tokens, args.new_tokens, args.runs, sampling, args.probe, args.profile
    )
    async with await _load(args) as engine:
        result = await bench(engine, options)
    if args.json:
        print(json.dumps(result))
        return
    found = result.pop("profile", None)
    print(json.dumps(result, indent=2))
    if found:
        print(profile_text(found))


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


async def _bench_load(args: argparse.Namespace) -> dict[str, Any]:
    from py_engine.diagnostics.load_bench import bench_load
    from py_engine.host import open_gpu, open_io

    gpu, io = await open_gpu(args.host), open_io()
    try:
        return await bench_load(args.model, gpu, io, args.runs, _say, args.dtype)
    finally:
        io.close()
        gpu.close()


async def _estimate(args: argparse.Namespace) -> None:
    from py_engine.serve.engine import Engine

    found = await Engine.estimate(
        args.model, host=args.host, dtype=args.dtype, context=args.context
    )
    if args.json:
        print(json.dumps({"model": args.model, **found.to_dict()}))
    else:
        print(f"{args.model} with a context of {found.context}: {found} of GPU memory")


async def _cache(args: argparse.Namespace) -> int:
    from py_engine.host import open_io
    from py_engine.serve import stored

    io = open_io()
    if args.what == "list":
        found = await stored.inventory(io)
        if args.json:
            print(json.dumps(found.to_dict()))
            return 0
        for m in found.models:
            used = (
                time.strftime("%Y-%m-%d %H:%M", time.localtime(m.used)) if m.used else "never used"
            )
            state = "" if m.complete else "  (not complete)"
            name = f"{m.model}@{','.join(m.refs) or m.commit[:12]}"
            print(f"{m.nbytes / 1e6:10.1f} MB  {used}  {name}{state}")
        print(f"{found.nbytes / 1e6:10.1f} MB  in {len(found.models)} models")
        return 0
    if args.what == "clean":
        if not (args.model or args.yes or await _may_delete_all(io, args.json)):
            print("Nothing was deleted.", file=sys.stderr)
            return 1
        gone = await stored.delete(io, args.model)
        if args.json:
            print(json.dumps(gone.to_dict()))
        else:
            print(f"{gone.nbytes / 1e6:.1f} MB given back, {len(gone.models)} models deleted")
            for name in gone.busy:
                print(f"{name} is being loaded and was left", file=sys.stderr)
        return 1 if gone.busy else 0
    files = await stored.verify(io, args.model)
    wrong = [file for file in files if file.state in ("damaged", "missing")]
    if args.json:
        print(json.dumps({"files": [asdict(file) for file in files]}))
    else:
        for file in files:
            print(f"{file.state:8}  {file.model}  {file.file}")
        if wrong:
            print("The next load fetches again what is damaged or missing.", file=sys.stderr)
    return 1 if wrong else 0


async def _may_delete_all(io: Io, as_json: bool) -> bool:
    """Whether the person at the terminal says so. Raises InputError where nobody can be asked."""
    from py_engine.serve import stored

    if as_json or not sys.stdin.isatty():
        raise InputError("cache clean: name a model, or add --yes to delete every one that is kept")
    found = await stored.inventory(io)
    for model in found.models:
        _say(f"{model.nbytes / 1e6:10.1f} MB  {model.model}")
    question = f"Delete all {len(found.models)} models, {found.nbytes / 1e6:.1f} MB? [y/N] "
    print(question, end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _bytes(text: str) -> int:
    """`1.2GB`, `900 MB`, `500000000`: decimal units, any case."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?) *([kmg]?)b?", text.strip().lower())
    if not found:
        raise argparse.ArgumentTypeError(f"{text!r}: give a size like 1.2GB, 900MB or bytes")
    return int(float(found[1]) * {"": 1, "k": 10**3, "m": 10**6, "g": 10**9}[found[2]])


async def _convert(args: argparse.Namespace) -> None:
    from py_engine.weights.convert import convert

    convert(args.file, args.out, bits=args.bits, group_size=args.group_size)


async def _doctor(args: argparse.Namespace) -> None:
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
    """Dispatch tests, a JSON object a line as they come; the last one counts them."""
    from py_engine.diagnostics.dispatch_tests import run_dispatch_tests
    from py_engine.host import open_gpu

    async def tell(row: dict[str, Any]) -> None:
        print(json.dumps(row), flush=True)

    gpu = await open_gpu(host)
    try:
        await tell({"phase": "done", **await run_dispatch_tests(gpu, tell, names or None)})
    finally:
        gpu.close()


async def _load(args: argparse.Namespace) -> Engine:
    from py_engine.graph.submit import asked_group
    from py_engine.serve.engine import Engine

    strategy = asked_group(args.group, args.passes)
    shown = ""

    def tell(progress: Progress) -> None:
        nonlocal shown
        if progress.phase == "weights":
            done = 100 * progress.loaded // max(progress.total, 1)
            line = f"weights {done // 10 * 10} % of {progress.total / 1e6:.0f} MB"
        else:
            line = progress.message
        if line != shown:
            shown = line
            print(line, file=sys.stderr)

    return await Engine.load(
        args.model,
        host=args.host,
        dtype=args.dtype,
        context=args.context,
        memory_budget=args.memory_budget,
        strategy=strategy,
        tune=args.tune,
        self_check=args.self_check,
        on_progress=tell,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m py_engine", description="AI models on your own GPU."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    model = argparse.ArgumentParser(add_help=False)
    model.add_argument("model", help="a folder, a hub id[@revision], or random:PRESET")
    model.add_argument(
        "--dtype",
        choices=("auto", "f32", "f16", "q8", "q4"),
        default="auto",
        help="f32: exact, f16: half storage, q8, q4: plain weights quantised while loading",
    )
    model.add_argument("--context", type=int, help="tokens of prompt and answer together")
    running = argparse.ArgumentParser(add_help=False)
    running.add_argument(
        "--memory-budget",
        type=_bytes,
        metavar="SIZE",
        help="refuse to load what takes more GPU memory (1.2GB, 900MB, bytes)",
    )
    running.add_argument(
        "--group", type=int, help="dispatches a command buffer, awaited one by one"
    )
    running.add_argument(
        "--passes",
        type=int,
        help="compute passes a command buffer; default 1, without --group a dispatch each",
    )
    running.add_argument(
        "--tune",
        action=argparse.BooleanOptionalAction,
        help="measure the forms of kernels on this device and keep them; --no-tune: nor use kept ones",
    )
    running.add_argument(
        "--self-check",
        action=argparse.BooleanOptionalAction,
        help="compare kernels with known numbers first (default: on all but software adapters)",
    )
    host = argparse.ArgumentParser(add_help=False)
    host.add_argument(
        "--host", choices=("dawn", "wgpu"), help="WebGPU implementation (default: dawn)"
    )
    host.add_argument(
        "--json", action="store_true", help="one JSON object on the last line of stdout"
    )

    p = commands.add_parser("generate", parents=[model, running, host], help="answer a prompt")
    p.add_argument("--prompt", required=True)
    p.add_argument("--chat", action="store_true", help="put the prompt through the chat template")
    p.add_argument(
        "--think",
        action=argparse.BooleanOptionalAction,
        help="let the model think first, or not; default: as its template has it",
    )
    p.add_argument(
        "--tools", metavar="FILE.json", help="tools that it may call, as OpenAI's API has them"
    )
    p.add_argument("--max-tokens", type=int)
    p.add_argument(
        "--temperature", type=float, help="default: the model's generation_config, else 0"
    )
    p.add_argument("--seed", type=int)
    p.set_defaults(run=_generate)

    p = commands.add_parser(
        "logits", parents=[model, running, host], help="logits after a list of token ids"
    )
    p.add_argument("--ids", required=True, help="comma-separated")
    p.add_argument("--out", required=True, help=".npy file, float32 [vocab]")
    p.set_defaults(run=_logits)

    p = commands.add_parser(
        "bench", parents=[model, running, host], help="prefill and decode speed"
    )
    p.add_argument("--prompt-tokens", type=int, default=512)
    p.add_argument("--new-tokens", type=int, default=128)
    p.add_argument("--runs", type=int, default=3)
    p.add_argument("--probe", action="store_true", help="also the memory bandwidth and its use")
    p.add_argument("--profile", action="store_true", help="also the time of each kernel")
    p.add_argument(
        "--load",
        action="store_true",
        help="instead: how long its kept weights take to load, beside reading and uploading the bytes alone",
    )
    for name, kind in SAMPLING.items():
        p.add_argument("--" + name.replace("_", "-"), type=kind, help="default: greedy")
    p.set_defaults(run=_bench)

    p = commands.add_parser(
        "estimate", parents=[model, host], help="GPU memory that a load would take, without loading"
    )
    p.set_defaults(run=_estimate)

    p = commands.add_parser("convert", help="GGUF file to a folder in MLX's layout")
    p.add_argument("file")
    p.add_argument("out")
    p.add_argument("--bits", type=int, choices=(4, 8, 16), default=4)
    p.add_argument("--group-size", type=int, choices=(32, 64, 128), default=64)
    p.set_defaults(run=_convert)

    p = commands.add_parser("cache", help="the models that are kept on this device")
    kinds = p.add_subparsers(required=True, metavar="list|verify|clean")
    for what, text in (
        ("list", "which, how large, when used last"),
        ("verify", "compare every file's sha256"),
        ("clean", "delete a model, or all"),
    ):
        one = kinds.add_parser(what, help=text)
        if what != "list":
            one.add_argument("model", nargs="?", help="org/name[@revision]; default: all")
        if what == "clean":
            one.add_argument("--yes", action="store_true", help="delete all without asking")
        one.add_argument("--json", action="store_true", help="one JSON object on stdout")
        one.set_defaults(run=_cache, what=what)

    p = commands.add_parser(
        "doctor", parents=[host], help="adapter, limits, features, measured speeds"
    )
    p.add_argument(
        "--probes",
        nargs="*",
        metavar="TEST",
        help="instead: test how this device runs dispatches and submits, all tests or these; a JSON row a line",
    )
    p.set_defaults(run=_doctor)
    return parser


if __name__ == "__main__":
    sys.exit(main())
