"""The words of the command line. Only the subcommands of tasks import the engine; the others start at once."""

from __future__ import annotations

import argparse
import re
import sys
from decimal import Decimal
from typing import Any, NoReturn

from py_engine.version import VERSION

SAMPLING = {
    "temperature": float,
    "top_k": int,
    "top_p": float,
    "min_p": float,
    "repetition_penalty": float,
    "presence_penalty": float,
    "frequency_penalty": float,
}


class UsageError(Exception):
    """The words of the command line are wrong. The message says which."""


class Parser(argparse.ArgumentParser):
    """Raises an error for wrong words instead of ending the process. The usage goes to stderr.

    `mixed`: options may stand before words that may be left out, and between them.
    """

    mixed = False

    def error(self, message: str) -> NoReturn:
        """Raise UsageError."""
        self.print_usage(sys.stderr)
        raise UsageError(message)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As in ArgumentParser."""
        if not self.mixed:
            return super().parse_known_args(args, namespace)
        self.mixed = False  # argparse itself calls this, for the options and for the words
        try:
            return self.parse_known_intermixed_args(args, namespace)
        finally:
            self.mixed = True


def asks_for_json(arguments: list[str]) -> bool:
    """Whether the words hold `--json`, or an abbreviation that argparse accepts, even if others are wrong."""
    return any(len(word) > 2 and "--json".startswith(word) for word in arguments)


def parser(*, tasks: bool = True) -> Parser:
    """The parser of all commands. `command` of its result is the one to run. Without `tasks` it has no subcommands of
    tasks, and imports nothing of the engine."""
    top = Parser(prog="jerboa", description="AI models on your own GPU.")
    top.add_argument("--version", action="version", version=f"jerboa {VERSION}")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    model, running, host = _model(), _running(), _host()
    json = _json()

    p = commands.add_parser(
        "generate", parents=[model, running, host, json], help="answer a prompt"
    )
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
    p.add_argument(
        "--image",
        action="append",
        metavar="FILE",
        help="a picture before the prompt, or its pixels, uint8 [h, w, 3] in a .npy file; may be repeated",
    )
    _add_generation(p)

    p = commands.add_parser(
        "describe", parents=[model, running, host, json], help="say what is in pictures"
    )
    p.add_argument(
        "images",
        nargs="+",
        metavar="IMAGE",
        help="a picture, or a .npy file: uint8 pixels [h, w, 3], or float32 patches [n, k] with --grid",
    )
    p.add_argument("--prompt", help="what is asked of them; default: Describe this image.")
    _add_grid(p)
    _add_generation(p)

    if tasks:
        from py_engine.cli.task import add_tasks

        add_tasks(commands, [model, running, host, json])

    p = commands.add_parser(
        "logits", parents=[model, running, host, json], help="logits after a list of token ids"
    )
    p.add_argument("--ids", required=True, help="comma-separated")
    p.add_argument(
        "--image",
        action="append",
        metavar="FILE",
        help="a picture whose token --ids repeat for each of its rows; files as for describe; may be repeated",
    )
    _add_grid(p)
    p.add_argument("--out", required=True, help=".npy file, float32 [vocab]")

    p = commands.add_parser(
        "embed",
        parents=[model, running, host, json],
        help="make a vector of unit length of each text",
    )
    p.mixed = True
    p.add_argument("texts", nargs="*", metavar="TEXT", help="a text; -: stdin, a text a line")
    p.add_argument(
        "--file", action="append", help="a text in UTF-8, behind the others; may be repeated"
    )
    p.add_argument("--ids", metavar="1,2,...", help="token ids of one text in the place of texts")
    p.add_argument("--task", help="what the vectors are for: query, document, ...")
    p.add_argument("--dimensions", type=int, help="only the first so many numbers of each vector")
    p.add_argument("--out", metavar="FILE.npy", help="float32 [texts, dimensions]")

    p = commands.add_parser(
        "features",
        parents=[model, running, host, json],
        help="what a vision tower makes of a picture",
    )
    p.add_argument(
        "--input",
        required=True,
        metavar="FILE.npy",
        help="uint8 pixels [h, w, 3], or float32 patches [n, k] with --grid",
    )
    p.add_argument("--grid", metavar="T,H,W", help="frames, rows and columns of patches")
    p.add_argument("--out", required=True, metavar="FILE.npy", help="float32 [rows, width]")

    p = commands.add_parser(
        "bench", parents=[model, running, host, json], help="prefill and decode speed"
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
    _add_sampling(p, "default: greedy")

    commands.add_parser(
        "estimate",
        parents=[model, host, json],
        help="GPU memory that a load would take, without loading",
    )

    p = commands.add_parser("convert", parents=[json], help="GGUF file to a folder in MLX's layout")
    p.add_argument("file")
    p.add_argument("out")
    p.add_argument("--bits", type=int, choices=(4, 8, 16), default=4)
    p.add_argument(
        "--embedding-bits",
        type=int,
        choices=(4, 8, 16),
        help="of the embedding and lm_head, which small models want finer; default: --bits",
    )
    p.add_argument("--group-size", type=int, choices=(32, 64, 128), default=64)

    p = commands.add_parser("cache", help="the models that are kept on this device")
    kinds = p.add_subparsers(dest="what", required=True, metavar="list|verify|clean")
    kinds.add_parser("list", parents=[json], help="which, how large, when used last")
    for what, text in (
        ("verify", "compare every file's sha256"),
        ("clean", "delete a model, or all"),
    ):
        one = kinds.add_parser(what, parents=[json], help=text)
        one.add_argument("model", nargs="?", help="org/name[@revision]; default: all")
    one.add_argument("--yes", action="store_true", help="delete all without a question")

    _add_memory(commands, [running, host, json])

    p = commands.add_parser(
        "doctor", parents=[host, json], help="adapter, limits, features, measured speeds"
    )
    p.add_argument(
        "--probes",
        nargs="*",
        metavar="TEST",
        help="instead: test how this device runs dispatches and submits, all tests or these; a JSON row a line",
    )
    return top


def _add_memory(commands: Any, parents: list[argparse.ArgumentParser]) -> None:
    p = commands.add_parser("memory", help="texts and documents that a model can recall")
    kinds = p.add_subparsers(dest="what", required=True, metavar="add|recall|forget|list")

    def add(what: str, text: str, namespace: str | None = "default") -> Parser:
        one: Parser = kinds.add_parser(what, parents=parents, help=text)
        one.add_argument("--namespace", default=namespace, help="default: %(default)s")
        one.add_argument("--model", help="the embedder; default: the one that wrote the namespace")
        one.add_argument(
            "--dtype", choices=("auto", "f32", "f16", "q8", "q4"), default="auto", help="of it"
        )
        one.set_defaults(kv="auto", vision="off", context=None)
        return one

    p = add("add", "store documents, split into pieces")
    p.add_argument(
        "files", nargs="*", metavar="FILE", help="text, Markdown, HTML, PDF, code; -: stdin"
    )
    p.add_argument("--text", action="append", help="a text in one piece; may be repeated")
    p = add("recall", "find what was stored about something")
    p.add_argument("query")
    p.add_argument("--token-budget", type=int, default=1024, help="the most tokens of the context")
    p.add_argument("--top-k", type=int, default=8, help="the most pieces")
    p.add_argument("--min-score", type=float, help="the least cosine of query and piece, -1 to 1")
    p.add_argument(
        "--hybrid", action=argparse.BooleanOptionalAction, default=True, help="by words, too"
    )
    p = add("forget", "delete pieces")
    p.add_argument("ids", nargs="*", metavar="ID")
    p.add_argument("--source", help="all of this source")
    p.add_argument("--all", action="store_true", help="the whole namespace")
    add("list", "the namespaces, or the sources of one", None)


def _model() -> Parser:
    group = Parser(add_help=False)
    group.add_argument("model", help="a folder, a hub id[@revision], or random:PRESET")
    group.add_argument(
        "--dtype",
        choices=("auto", "f32", "f16", "q8", "q4"),
        default="auto",
        help="f32: exact, f16: half storage, q8, q4: plain weights quantised while loading",
    )
    group.add_argument(
        "--kv",
        choices=("auto", "f32", "f16", "q8"),
        default="auto",
        help="form of the KV cache; default: --dtype's (f32 or f16), q8 where only that fits",
    )
    group.add_argument(
        "--vision",
        choices=("auto", "lazy", "off"),
        default="auto",
        help="the tower of a model that sees pictures: with the model, with the first picture, or never",
    )
    group.add_argument("--context", type=int, help="tokens of prompt and answer together")
    return group


def _running() -> Parser:
    group = Parser(add_help=False)
    group.add_argument(
        "--memory-budget",
        type=_bytes,
        metavar="SIZE",
        help="refuse to load what takes more GPU memory (1.2GB, 900MB, bytes)",
    )
    group.add_argument("--group", type=int, help="dispatches a command buffer, awaited one by one")
    group.add_argument(
        "--passes",
        type=int,
        help="compute passes a command buffer; default 1, without --group a dispatch each",
    )
    group.add_argument(
        "--tune",
        action=argparse.BooleanOptionalAction,
        help="measure the forms of kernels on this device and keep them; --no-tune: nor use kept ones",
    )
    group.add_argument(
        "--self-check",
        action=argparse.BooleanOptionalAction,
        help="compare kernels with known numbers first (default: on all but software adapters)",
    )
    return group


def _host() -> Parser:
    group = Parser(add_help=False)
    group.add_argument(
        "--host",
        choices=("dawn", "wgpu"),
        help="WebGPU implementation (default: JERBOA_HOST, else the first that has a GPU in hardware)",
    )
    return group


def _json() -> Parser:
    group = Parser(add_help=False)
    group.add_argument(
        "--json", action="store_true", help="one JSON object on the last line of stdout"
    )
    return group


def _add_generation(p: argparse.ArgumentParser) -> None:
    p.add_argument("--max-tokens", type=int)
    p.add_argument("--stop", action="append", metavar="TEXT", help="end before it; may be repeated")
    _add_sampling(p, "default: the model's generation_config, else off")
    p.add_argument("--seed", type=int)


def _add_grid(p: argparse.ArgumentParser) -> None:
    p.add_argument(
        "--grid",
        action="append",
        metavar="T,H,W",
        help="of patches: frames (1), rows and columns; once for each such file",
    )


def _add_sampling(p: argparse.ArgumentParser, default: str) -> None:
    for name, kind in SAMPLING.items():
        p.add_argument("--" + name.replace("_", "-"), type=kind, help=default)


def _bytes(text: str) -> int:
    """Bytes of a text like `1.2GB`, `900 MB` or `500000000`: decimal units, upper or lower case."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?) *([kmg]?)b?", text.strip().lower())
    if not found:
        raise argparse.ArgumentTypeError(f"{text!r}: give a size like 1.2GB, 900MB or bytes")
    return int(Decimal(found[1]) * {"": 1, "k": 10**3, "m": 10**6, "g": 10**9}[found[2]])
