"""The commands `generate`, `describe` and `logits`."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from py_engine.cli.common import at_least_one, load_engine
from py_engine.cli.npy import place_for, write_npy
from py_engine.cli.parser import SAMPLING
from py_engine.cli.pictures import pictures
from py_engine.errors import InputError
from py_engine.host.json_text import JsonError, read_json

if TYPE_CHECKING:
    from py_engine.generate.answer import Answer, Generation
    from py_engine.generate.options import Options
    from py_engine.serve.engine import Engine


async def generate(args: argparse.Namespace) -> None:
    """`generate`: answer a prompt."""
    options = _options(args)
    if not args.prompt:
        raise InputError("--prompt: the prompt is empty: give some text")
    if not args.chat and (args.tools is not None or args.think is not None):
        raise InputError("--think, --no-think and --tools go through the template: add --chat")
    if args.image and not args.chat:
        raise InputError("--image goes through the template: add --chat")
    images = pictures(args.image or (), "--image")
    tools = None if args.tools is None else _read_tools(args.tools)
    async with await load_engine(args) as engine:
        if args.chat:
            messages = [{"role": "user", "content": _content(args.prompt, images)}]
            generation = engine.chat(messages, tools=tools, enable_thinking=args.think, **options)
        else:
            generation = engine.complete(args.prompt, **options)
        await _show(engine, generation, args.json)


async def describe(args: argparse.Namespace) -> None:
    """`describe`: say what is in pictures."""
    options = _options(args)
    images = pictures(args.images, "IMAGE", args.grid)
    from py_engine.tasks.describe import PROMPT, DescribeRequest

    prompt = PROMPT if args.prompt is None else args.prompt
    async with await load_engine(args) as engine:
        asked = engine.ask(DescribeRequest(images=images, prompt=prompt, **options))
        await _show(engine, asked, args.json)


def _content(prompt: str, images: Sequence[Mapping[str, Any]]) -> str | list[dict[str, Any]]:
    """The content of a message: the pictures, then the prompt."""
    if not images:
        return prompt
    return [*({"type": "image", **image} for image in images), {"type": "text", "text": prompt}]


async def _show(engine: Engine, generation: Generation, as_json: bool) -> None:
    """Print an answer while it comes, or as one JSON object at its end."""
    if not as_json:
        await _print_deltas(generation)
    answer = await generation
    for problem in answer.tool_call_errors:
        print(problem, file=sys.stderr)
    if as_json:
        print(json.dumps(_report(engine, answer)))
        return
    t = answer.timings
    seen = f" ({answer.image_tokens} of pictures)" if answer.image_tokens else ""
    print(
        f"{answer.prompt_tokens}{seen} + {answer.completion_tokens} tokens, first after {t.ttft_s:.2f} s, "
        f"prefill {t.prefill_tps:.1f}, decode {t.decode_tps:.1f} tokens/s",
        file=sys.stderr,
    )


def _options(args: argparse.Namespace) -> Options:
    """The options of a generation, checked before anything is loaded. Raises InputError."""
    from py_engine.generate.sampling import Sampling
    from py_engine.generate.stream import StopStrings

    sampling = {name: getattr(args, name) for name in (*SAMPLING, "seed")}
    Sampling.make(Sampling(), sampling, ())
    StopStrings(args.stop or ())
    at_least_one(args, "max_tokens")
    return {"max_tokens": args.max_tokens, "stop": args.stop, **sampling}  # type: ignore[typeddict-item]


async def _print_deltas(generation: Generation) -> None:
    """Print the answer, and its tool calls as a line of JSON each, to stdout; print thinking to stderr."""
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
    """The tools in a file. Raises InputError for tools that Engine.chat would refuse."""
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
        "image_tokens": answer.image_tokens,
        "finish_reason": answer.finish_reason,
        "timings": asdict(answer.timings),
        "plan": info["plan"],
        "memory": info["memory"],
        "traffic": info["traffic"],
        "adapter": info["adapter"],
    }


async def logits_command(args: argparse.Namespace) -> None:
    """`logits`: write the logits after token ids to a .npy file."""
    try:
        ids = [int(part) for part in args.ids.split(",")]
    except ValueError as error:
        raise InputError(f"--ids {args.ids}: give token ids like 1,2,3") from error
    if min(ids) < 0:
        raise InputError(f"--ids {args.ids}: token ids begin at 0")
    out = place_for(args.out, "--out")
    images = pictures(args.image or (), "--image", args.grid)
    async with await load_engine(args) as engine:
        logits = await engine.logits(ids, images=images)
    write_npy(out, logits, (len(logits),))
    best = max(range(len(logits)), key=logits.__getitem__)
    print(f"{len(logits)} logits in {out}, best {best} ({logits[best]:.6g})", file=sys.stderr)
    if args.json:
        print(json.dumps({"out": str(out), "logits": len(logits), "best": best}))
