"""./dev bench --rows MODEL...: runs benches and prints rows for docs/benchmarks.md.

    ./dev bench --rows random:qwen3-0.6b-4bit random:qwen3.5-0.8b-4bit --browser --native --sampled \
        --prompts 512 3900 16000 32000 --presets nvidia nvidia-plain --device "NVIDIA H200" --save runs.jsonl \
        -- --chromium /path/to/chromium
    ./dev bench --rows --from runs.jsonl                     the table of saved runs again
    ./dev bench --rows --from runs.jsonl --peers docs/peers.json     with other engines and ratios

Every run is a separate process: `python -m py_engine bench` or `python -m devtools.browser_bench`. Arguments after `--`
are passed to the browser bench. A run that fails is reported on stderr and the others go on; the exit status is then 1.
Standard library only.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import importlib.metadata
import json
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
SAMPLED = ["--temperature", "0.7", "--top-k", "20", "--top-p", "0.8", "--presence-penalty", "1.5"]
COLUMNS = (
    "date", "device", "where", "model", "weights", "sampling", "prompt", "new", "decode tok/s", "prefill tok/s",
    "of bandwidth", "dispatches", "load s", "version",
)  # fmt: skip
# Of text encoders: milliseconds for so many texts of so many tokens.
ENCODER_COLUMNS = (
    "date", "device", "where", "model", "weights", "1 x 32, ms", "64 x 128, ms", "dispatches", "GPU MB", "load s",
    "version",
)  # fmt: skip
PACKAGES = {"dawn": ("Dawn", "wgpudawn"), "wgpu": ("wgpu-native", "wgpu")}


def heading(columns: Sequence[str] = COLUMNS) -> str:
    """Return the two lines above the rows."""
    return f"{_line(columns)}\n{'|---' * len(columns)}|"


def table(results: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """Yield the rows of results as they come; above them a heading, and another where encoders follow decoders."""
    before: Sequence[str] = ()
    for result in results:
        columns = ENCODER_COLUMNS if "batches" in result else COLUMNS
        if columns != before:
            yield heading(columns)
        before = columns
        yield encoder_row(result) if "batches" in result else row(result)


def encoder_row(result: Mapping[str, Any]) -> str:
    """Return the bench result of a text encoder as a Markdown row."""
    memory = result["memory"]
    kinds = ("weights_bytes", "state_bytes", "activation_bytes")
    return _line(
        (
            str(result.get("date", "")),
            device(result),
            str(result.get("runtime", "")) + ("" if units(result) else ", plain"),
            f"`{'/'.join(result['model'].split('/')[-2:])}`",
            str(result["dtype"]),
            *(f"{batch['ms']:.3g}" for batch in result["batches"]),
            str(max(result["dispatches"].values())),
            f"{sum(memory[kind] for kind in kinds) / 1e6:,.0f}",
            f"{result['load_s']:.2g}",
            " ".join(filter(None, (result.get(k) for k in ("version", "commit", "tuned")))),
        )
    )


def row(result: Mapping[str, Any]) -> str:
    """Return one bench result (--probe or --profile) as a Markdown row."""
    sampling = result.get("sampling") or {}
    told = ", ".join(f"{k.replace('_', ' ')} {v:g}" for k, v in sampling.items())
    used = result.get("bandwidth_percent")
    return _line(
        (
            str(result.get("date", "")),
            device(result),
            str(result.get("runtime", "")) + ("" if units(result) else ", plain"),
            f"`{'/'.join(result['model'].split('/')[-2:])}`",
            str(result.get("weights", "")),
            told or "greedy",
            f"{result['prompt_tokens']:,}",
            f"{result['new_tokens']:,}",
            _speed(result["decode_tps"]),
            _speed(result["prefill_tps"]),
            "" if used is None else f"{used:g} %",
            str(result.get("decode_dispatches") or result["plan"]["decode_dispatches"]),
            f"{result['load_s']:.2g}",
            " ".join(filter(None, (result.get(k) for k in ("version", "commit", "tuned")))),
        )
    )


def units(result: Mapping[str, Any]) -> bool:
    """Tell whether kernels could use f16 arithmetic or tensor units; rows of other runs say "plain"."""
    return bool({"shader-f16", "subgroup-matrix"} & {*result["features"]})


def device(result: Mapping[str, Any]) -> str:
    """Return the name of the GPU, as far as it is known: browsers often tell only the vendor."""
    if result.get("device"):
        return str(result["device"])
    adapter = result["adapter"]
    names = (adapter.get(key) for key in ("device", "description", "architecture", "vendor"))
    name = next((str(n) for n in names if n and not str(n).startswith("0x")), "unknown")
    return f"{name} (software)" if adapter.get("fallback") else name


def peer_rows(results: Sequence[Mapping[str, Any]], peers: Sequence[Mapping[str, Any]]) -> str:
    """Return a table of peers beside the best greedy run of the same model and prompt, with the ratio ours / theirs.

    `peers`: objects with peer, where, model (as in random:MODEL-4bit), prompt_tokens, decode_tps, prefill_tps, date.
    """
    lines = [
        _line(
            (
                "model",
                "prompt",
                "peer",
                "where",
                "date",
                "decode tok/s",
                "ours",
                "prefill tok/s",
                "ours",
            )
        ),
        "|---" * 9 + "|",
    ]
    for peer in peers:
        ours = [
            r
            for r in results
            if base_name(r["model"]) == base_name(peer["model"])
            and r["prompt_tokens"] == peer["prompt_tokens"]
            and not r.get("sampling")
        ]
        if not ours:
            continue
        prompt = f"{peer['prompt_tokens']:,}"
        cells = [peer["model"], prompt, peer["peer"], peer["where"], peer["date"]]
        for key in ("decode_tps", "prefill_tps"):
            best = max(r[key] for r in ours)
            theirs = peer.get(key)
            cells += [_speed(theirs) if theirs else "-", _speed(best)]
            if theirs:
                cells[-1] += f" (**{best / theirs:.2g} x**)"
        lines.append(_line(cells))
    return "\n".join(lines)


def base_name(model: str) -> str:
    """Return a model's name without its place and its format: random:qwen3-0.6b-4bit -> qwen3-0.6b."""
    return model.split(":")[-1].split("/")[-1].removesuffix("-4bit").lower()


def commands(arguments: argparse.Namespace) -> Iterator[list[str]]:
    """Yield the requested runs, as arguments of this interpreter."""
    native = ["-m", "py_engine", "bench", "--json"]
    browser = ["-m", "devtools.browser_bench", "--json", *arguments.rest]
    browsers = [[*browser, "--preset", preset] for preset in arguments.presets] or [browser]
    kinds = browsers * arguments.browser + [native] * (arguments.native or not arguments.browser)
    prompts = [_prompt(tokens, arguments.new_tokens) for tokens in arguments.prompts]
    samplings: list[list[str]] = [[], *[SAMPLED] * arguments.sampled]
    tune = ["--tune"] * arguments.tune
    for model in arguments.models:
        for prompt in prompts:
            for sampling in samplings:
                for kind in kinds:
                    measure = "--profile" if arguments.profile and not sampling else "--probe"
                    yield [*kind, model, measure, *prompt, *sampling, *tune]


def _prompt(tokens: int, new: int) -> list[str]:
    """Return the options for a prompt of `tokens` and an answer of `new` tokens, with the context they need."""
    needed = tokens + new + 1
    context = ["--context", str(-(-needed // 256) * 256)] if needed > 4096 else []
    return ["--prompt-tokens", str(tokens), "--new-tokens", str(new), *context]


def measure(command: Sequence[str], device: str) -> dict[str, Any] | None:
    """Run one bench; return its result with date, device and commit, or None (and a line on stderr) when it failed."""
    print("bench:", " ".join(command), file=sys.stderr, flush=True)
    done = subprocess.run([sys.executable, *command], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        result = json.loads(done.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        result = {"error": {"message": f"no result, exit status {done.returncode}"}}
    if "error" in result:
        print("failed:", result["error"]["message"], file=sys.stderr, flush=True)
        return None
    assert isinstance(result, dict)
    if "runtime" not in result:
        name, package = PACKAGES[result["adapter"]["host"]]
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            name += f" ({package} {importlib.metadata.version(package)})"
        result["runtime"] = f"CPython {sys.version.split()[0]}, {name}"
    if "--tune" in command:
        result["tuned"] = "tuned"
    return result | {"date": str(datetime.date.today()), "device": device, "commit": commit()}


def commit() -> str:
    """Return the checkout's commit, with a + when files differ from it; JERBOA_COMMIT where there is no git."""
    if told := os.environ.get("JERBOA_COMMIT"):
        return told
    try:
        git = ["git", "-C", str(ROOT)]
        name = subprocess.check_output(
            [*git, "rev-parse", "--short", "HEAD"], stderr=subprocess.DEVNULL, text=True
        )
        changed = subprocess.check_output([*git, "status", "--porcelain", "-uno"], text=True)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return name.strip() + "+" * bool(changed.strip())


def _speed(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def main(arguments: list[str]) -> int:
    """Run the command line; returns the exit status."""
    rest: list[str] = []
    if "--" in arguments:
        at = arguments.index("--")
        arguments, rest = arguments[:at], arguments[at + 1 :]
    parser = argparse.ArgumentParser(
        prog="dev bench --rows",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("models", nargs="*", metavar="MODEL")
    parser.add_argument("--browser", action="store_true", help="in headless Chromium")
    parser.add_argument("--native", action="store_true", help="in CPython (also without --browser)")
    parser.add_argument("--prompts", type=int, nargs="+", default=[512], help="their tokens")
    parser.add_argument("--new-tokens", type=int, default=128)
    parser.add_argument(
        "--presets", nargs="+", default=[], help="sets of the browser's flags, one run each"
    )
    parser.add_argument("--sampled", action="store_true", help="also " + " ".join(SAMPLED))
    parser.add_argument(
        "--profile", action="store_true", help="profile the greedy runs, for --save"
    )
    parser.add_argument("--tune", action="store_true", help="measure the forms of kernels first")
    parser.add_argument("--device", default="", help="what the GPU is called in the rows")
    parser.add_argument("--save", type=Path, help="append every result to this file, a line each")
    parser.add_argument("--from", dest="saved", type=Path, help="no runs: the results of this file")
    parser.add_argument("--peers", type=Path, help="print the table of peers instead of rows")
    parsed = parser.parse_args(arguments)
    parsed.rest = rest
    results: list[dict[str, Any]] = []
    failed = False
    if not parsed.saved and not parsed.models:
        parser.error("name at least one MODEL, or a file with --from")

    def runs() -> Iterator[dict[str, Any]]:
        nonlocal failed
        if parsed.saved:
            yield from (json.loads(line) for line in parsed.saved.read_text().splitlines() if line)
            return
        for command in commands(parsed):
            result = measure(command, parsed.device)
            if result is None:
                failed = True
                continue
            if parsed.save:
                with parsed.save.open("a") as file:
                    file.write(json.dumps(result) + "\n")
            yield result

    def kept() -> Iterator[dict[str, Any]]:
        for result in runs():
            results.append(result)
            yield result

    for line in table(kept()):
        if not parsed.peers:
            print(line, flush=True)
    if parsed.peers:
        print(peer_rows(results, json.loads(parsed.peers.read_text())))
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
