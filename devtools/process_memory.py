"""Peak memory of a program's processes, read from /proc (Linux); nothing on other systems.

Resident memory (VmRSS): shared pages count in each process, and a software adapter's buffers count in the GPU
process.
"""

from __future__ import annotations

import threading
from pathlib import Path

PROC = Path("/proc")
_EVERY_S = 0.1
_NAMES = {"--type=renderer": "renderer", "--type=gpu-process": "gpu"}


class ProcessMemory:
    """Samples a process group until `stop`."""

    def __init__(self, group: int) -> None:
        self._group = group
        self._peaks: dict[str, int] = {}
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def stop(self) -> dict[str, int]:
        """Return the peak in MB (10^6 bytes) of the largest process of each kind: main, and in a browser renderer, gpu,
        other."""
        self._ended.set()
        self._thread.join()
        return {kind: kib * 1024 // 1_000_000 for kind, kib in sorted(self._peaks.items())}

    def _watch(self) -> None:
        while not self._ended.wait(_EVERY_S):
            for place in PROC.glob("[0-9]*"):
                try:
                    self._look(place)
                except (OSError, ValueError, IndexError):  # the process has ended meanwhile
                    continue

    def _look(self, place: Path) -> None:
        # The fields after the name in brackets (which may contain anything): state, parent, group.
        if int((place / "stat").read_text().rpartition(")")[2].split()[2]) != self._group:
            return
        # Arguments are separated by NULs, or by spaces if a process renamed itself, as Chromium's renderers do.
        line = (place / "cmdline").read_bytes().decode(errors="replace")
        arguments = line.replace("\0", " ").split(" ")
        other = "other" if any(a.startswith("--type=") for a in arguments) else "main"
        kind = next((_NAMES[a] for a in arguments if a in _NAMES), other)
        lines = (place / "status").read_text().splitlines()
        kib = next((int(line.split()[1]) for line in lines if line.startswith("VmRSS:")), 0)
        self._peaks[kind] = max(self._peaks.get(kind, 0), kib)
