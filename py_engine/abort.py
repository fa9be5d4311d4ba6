"""A flag that says stop, handed to loads and generations."""

from __future__ import annotations

from py_engine.errors import AbortError


class Abort:
    """Set once by whoever wants the work to end; the work looks at it between small steps."""

    def __init__(self) -> None:
        self._set = False

    def __repr__(self) -> str:
        return f"<Abort {'set' if self._set else 'not set'}>"

    def set(self) -> None:
        """Ask the work to stop."""
        self._set = True

    @property
    def is_set(self) -> bool:
        """Whether stop was asked for."""
        return self._set

    def check(self) -> None:
        """Raise AbortError when stop was asked for."""
        if self._set:
            raise AbortError("stopped by the caller")
