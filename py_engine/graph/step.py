"""The `Step` struct of shaders/lib/step.wgsl, seen from Python."""

from __future__ import annotations

import struct

STEP_BYTES = 32

HALT_STOP = 1  # a stop token was sampled
HALT_LENGTH = 2  # the token limit was reached


def pack_step(*, pos: int, rows: int, limit: int = 0, token: int = 0, count: int = 0) -> bytes:
    """The step as the host writes it before a pass (halt = 0)."""
    return struct.pack("<8I", token, 0, pos, count, rows, limit, 0, 0)
