"""The command line: `jerboa COMMAND`. Results go to stdout, everything else to stderr."""

from __future__ import annotations

import argparse
import asyncio
import io
import json
import os
import sys
import time
import traceback
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from py_engine.cli.parser import SAMPLING, UsageError, asks_for_json, parser
from py_engine.errors import AbortError, EngineError, InputError
from py_engine.host.json_text import JsonError, read_json

# The engine is imported by the commands that run it: `convert` and `--help` need none of it.
if TYPE_CHECKING:
    from py_engine.generate.answer import Answer, Generation
    from py_engine.generate.options import Options
    from py_engine.host.gpu import Gpu
    from py_engine.kept.inventory import Inventory
    from py_engine.serve.engine import Engine


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. Exit code 1 after an error, 2 for a wrong command line; with --json both are told as an object
    too, {"error": {"type", "message"}}."""
    # A pipe on Windows is not UTF-8: what its encoding lacks is escaped, not an error.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    words = list(sys.argv[1:] if argv is None else argv)
    as_json = asks_for_json(words)
    try:
        args = parser().parse_args(words)
        code = asyncio.run(_run(args)) or 0
        sys.stdout.flush()
        return code
    except UsageError as error:
        return _failed("InputError", str(error), as_json, 2)
    except EngineError as error:
        return _failed(error.type, str(error), as_json)
    except KeyboardInterrupt:
        return _failed(AbortError.__name__, "stopped from the keyboard", as_json, 130)
    except BrokenPipeError:  # whoever reads has enough
        with suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        return _failed(type(error).__name__, str(error), as_json)
    except Exception as error:
        # A fault of ours: whoever reads JSON gets JSON, and a report gets its traceback.
        if not as_json:
            raise
        traceback.print_exc()
        return _failed(type(error).__name__, str(error), as_json)


async def _run(args: argparse.Namespace) -> int | None:
    return await COMMANDS[args.command](args)


def _failed(kind: str, message: str, as_json: bool, code: int = 1) -> int:
    if as_json:
        print(json.dumps({"error": {"type": kind, "message": message}}), flush=True)
    else:
        print(f"{kind}: {message}", file=sys.stderr)
    return code


async def _generate(args: argparse.Namespace) -> None:
    options = _options(args)
    if not args.prompt:
        raise InputError("--prompt: the prompt is empty: give some text")
    if not args.chat and (args.tools is not None or args.think is not None):
        raise InputError("--think, --no-think and --tools go through the template: add --chat")
    tools = None if args.tools is None else _read_tools(args.tools)
    async with await _load(args) as engine:
        if args.chat:
            messages = [{"role": "user", "content": args.prompt}]
            generation = engine.chat(messages, tools=tools, enable_thinking=args.think, **options)
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


def _options(args: argparse.Namespace) -> Options:
    """How to generate, checked before anything is loaded. Raises InputError."""
    from py_engine.generate.sampling import Sampling
    from py_engine.generate.stream import StopStrings

    sampling = {name: getattr(args, name) for name in (*SAMPLING, "seed")}
    Sampling.make(Sampling(), sampling, ())
    StopStrings(args.stop or ())
    _at_least_one(args, "max_tokens")
    return {"max_tokens": args.max_tokens, "stop": args.stop, **sampling}  # type: ignore[typeddict-item]


def _at_least_one(args: argparse.Namespace, *names: str) -> None:
    """Raise InputError for a number below 1; None is left to the engine."""
    for name in names:
        value = getattr(args, name)
        if value is not None and value < 1:
            raise InputError(
                f"--{name.replace('_', '-')} {value}: give a whole number of at least 1"
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
    """The tools of a file. Raises InputError for those that Engine.chat would refuse."""
    from py_engine.generate.tools import check_tools

    try:
        tools = read_json(Path(path).read_bytes())
        check_tools(tools)
    except (OSError, JsonError, InputError) as error:
        raise InputError(
            f"--tools {path}: give a JSON file with a list of tools ({error})"
        ) from error
    return tools


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
    if min(ids) < 0:
        raise InputError(f"--ids {args.ids}: token ids begin at 0")
    out = _place_for(args.out, "--out")
    async with await _load(args) as engine:
        logits = await engine.logits(ids)
    _write_npy(out, logits)
    best = max(range(len(logits)), key=logits.__getitem__)
    print(f"{len(logits)} logits in {out}, best {best} ({logits[best]:.6g})", file=sys.stderr)
    if args.json:
        print(json.dumps({"out": str(out), "logits": len(logits), "best": best}))


def _place_for(path: str, option: str) -> Path:
    """Where a file will be written. Raises InputError where it cannot be, before anybody waits for its content."""
    out = Path(path)
    folder = out.parent
    if out.is_dir():
        raise InputError(f"{option} {path}: is a folder; name a file")
    if not folder.is_dir():
        raise InputError(f"{option} {path}: there is no folder {folder}")
    if not os.access(out if out.exists() else folder, os.W_OK):
        raise InputError(f"{option} {path}: cannot be written here")
    return out


def _write_npy(path: Path, values: memoryview[float]) -> None:
    """A float32 vector as NumPy's .npy, version 1.0 (numpy.lib.format)."""
    head = f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({len(values)},), }}".encode()
    head += b" " * (-(len(head) + 11) % 64) + b"\n"
    path.write_bytes(
        b"\x93NUMPY\x01\x00" + len(head).to_bytes(2, "little") + head + values.tobytes()
    )


async def _bench(args: argparse.Namespace) -> None:
    _at_least_one(args, "prompt_tokens", "new_tokens", "runs")
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


async def _open_gpu(host: str | None) -> Gpu:
    """The GPU, and a word about it if there is one to say."""
    from py_engine.host import open_gpu

    gpu = await open_gpu(host)
    if gpu.warning:
        _say(gpu.warning)
    return gpu


async def _bench_load(args: argparse.Namespace) -> dict[str, Any]:
    from py_engine.diagnostics.load_bench import bench_load
    from py_engine.host import open_io

    gpu, io = await _open_gpu(args.host), open_io()
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
    from py_engine.kept import inventory

    io = open_io()
    if args.what == "list":
        found = await inventory.inventory(io)
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
        if args.model is None and not args.yes:
            _confirm_clean(await inventory.inventory(io), args.json)
        gone = await inventory.delete(io, args.model)
        if args.json:
            print(json.dumps(gone.to_dict()))
        else:
            print(f"{gone.nbytes / 1e6:.1f} MB given back, {len(gone.models)} models deleted")
            for name in gone.busy:
                print(f"{name} is being loaded and was left", file=sys.stderr)
        return 1 if gone.busy else 0
    files = await inventory.verify(io, args.model)
    wrong = [file for file in files if file.state in ("damaged", "missing")]
    if args.json:
        print(json.dumps({"files": [asdict(file) for file in files]}))
    else:
        for file in files:
            print(f"{file.state:8}  {file.model}  {file.file}")
        if wrong:
            print("The next load fetches again what is damaged or missing.", file=sys.stderr)
    return 1 if wrong else 0


def _confirm_clean(found: Inventory, as_json: bool) -> None:
    """Ask at a terminal. Raises InputError where nobody can be asked, AbortError for a no."""
    what = f"all {len(found.models)} models, {found.nbytes / 1e6:.1f} MB"
    if as_json or not sys.stdin or not sys.stdin.isatty():
        raise InputError(f"cache clean deletes {what}: name one model, or add --yes")
    for model in found.models:
        _say(f"{model.nbytes / 1e6:10.1f} MB  {model.model}")
    _say(f"Delete {what}? [y/N]")
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise AbortError("nothing was deleted")


async def _convert(args: argparse.Namespace) -> None:
    from py_engine.convert.convert import convert

    convert(args.file, args.out, args.bits, args.group_size, embedding_bits=args.embedding_bits)
    if args.json:
        nbytes = sum(file.stat().st_size for file in Path(args.out).iterdir())
        print(json.dumps({"out": args.out, "bytes": nbytes}))


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
    from py_engine.diagnostics.dispatch_tests import TESTS, run_dispatch_tests

    for name in names:
        if name not in TESTS:
            raise InputError(f"--probes: no dispatch test {name!r}: known are {', '.join(TESTS)}")

    async def tell(row: dict[str, Any]) -> None:
        print(json.dumps(row), flush=True)

    gpu = await _open_gpu(host)
    try:
        await tell({"phase": "done", **await run_dispatch_tests(gpu, tell, names or None)})
    finally:
        gpu.close()


async def _load(args: argparse.Namespace) -> Engine:
    _at_least_one(args, "context")
    from py_engine.graph.submit import asked_group
    from py_engine.serve.engine import Engine

    return await Engine.load(
        args.model,
        host=args.host,
        dtype=args.dtype,
        context=args.context,
        memory_budget=args.memory_budget,
        strategy=asked_group(args.group, args.passes),
        tune=args.tune,
        self_check=args.self_check,
        progress=True,
    )


COMMANDS: dict[str, Callable[[argparse.Namespace], Awaitable[int | None]]] = {
    "generate": _generate,
    "logits": _logits,
    "bench": _bench,
    "estimate": _estimate,
    "convert": _convert,
    "cache": _cache,
    "doctor": _doctor,
}

if __name__ == "__main__":
    sys.exit(main())
