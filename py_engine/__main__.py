"""The command line: `jerboa COMMAND`. Results go to stdout, everything else to stderr."""

from __future__ import annotations

import argparse
import asyncio
import io
import json
import os
import sys
import traceback
from collections.abc import Sequence
from contextlib import suppress

from py_engine.cli.commands import COMMANDS
from py_engine.cli.parser import UsageError, asks_for_json, parser
from py_engine.errors import AbortError, EngineError


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. Exit code 1 after an error, 2 for a wrong command line; with --json both are told as an object
    too, {"error": {"type", "message"}}."""
    # A pipe on Windows is not UTF-8: what its encoding lacks is escaped, not an error.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    words = list(sys.argv[1:] if argv is None else argv)
    as_json = asks_for_json(words)
    try:
        args = parser(tasks=not words or words[0] not in COMMANDS).parse_args(words)
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
    if args.command in COMMANDS:
        return await COMMANDS[args.command](args)
    from py_engine.cli.task import run

    await run(args)
    return None


def _failed(kind: str, message: str, as_json: bool, code: int = 1) -> int:
    if as_json:
        print(json.dumps({"error": {"type": kind, "message": message}}), flush=True)
    else:
        print(f"{kind}: {message}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
