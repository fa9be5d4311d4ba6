"""./dev bench --load FOLDER: how long a warm load takes in CPython, compared with reading and uploading its bytes.

FOLDER is a checkpoint, whose path ends with ORGANISATION/NAME. A local hub serves it to an empty Hugging Face
cache; `python -m py_engine bench --load` does the rest (in the browser: `./dev bench --browser --load MODEL`).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from devtools.page_server import PageServer
from devtools.process_memory import ProcessMemory
from devtools.site import Site


def main(arguments: list[str]) -> int:
    """Run the bench; returns its exit status. Arguments after FOLDER are passed to it."""
    if not arguments or not (Path(arguments[0]) / "config.json").is_file():
        sys.exit(
            "./dev bench --load FOLDER [--runs N] [--host dawn|wgpu] [--dtype q4]: give a checkpoint's folder first"
        )
    folder = Path(arguments[0]).resolve()
    command = [
        sys.executable,
        "-m",
        "py_engine",
        "bench",
        "--load",
        f"{folder.parent.name}/{folder.name}",
    ]
    with (
        PageServer(Site(models=folder.parent.parent)) as server,
        tempfile.TemporaryDirectory() as stores,
    ):
        env = {**os.environ, "HF_ENDPOINT": server.url + "models", "HF_HUB_CACHE": stores}
        bench = subprocess.Popen(
            [*command, *arguments[1:]], env=env, start_new_session=True, stdout=subprocess.PIPE
        )
        memory = ProcessMemory(bench.pid)
        told, _ = bench.communicate()
        if bench.returncode == 0:
            told = json.dumps(json.loads(told) | {"process_mb": memory.stop()}).encode() + b"\n"
        sys.stdout.write(told.decode())
        return bench.returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
