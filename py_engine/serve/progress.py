"""Shows how far a load is: a bar on a terminal and in a notebook, elsewhere lines if they are wanted."""

from __future__ import annotations

import os
import shutil
import sys
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic
from typing import TextIO

from py_engine.serve.options import Progress

_DRAW_S = 0.1  # between two drawings of the bar
_RATE_S = 8.0  # the rate shown is that of so many last seconds
_GUESS_S = 1.5  # the time left is shown only after so many seconds
_BAR = 20  # characters
_COLUMNS = 100  # width of a line in a notebook

Tell = Callable[[Progress], object]


def in_notebook() -> bool:
    """Whether this process is the kernel of a notebook, whose output takes a bar though it is no terminal."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return hasattr(shell, "kernel")


def on_terminal(out: TextIO | None) -> bool:
    """Whether a line of `out` can be written over."""
    try:
        return out is not None and out.isatty() and os.environ.get("TERM") != "dumb"
    except ValueError:  # it is closed
        return False


@contextmanager
def showing(name: str, on_progress: Tell | None, progress: bool | None) -> Iterator[Tell]:
    """Gives a function to call with the progress of loading `name`. It passes the progress to `on_progress`, and shows
    it on stderr if `progress` is True, or if it is None, there is no `on_progress`, and stderr is a terminal or a
    notebook."""
    bar = on_terminal(sys.stderr) or in_notebook()
    printed = bar and on_progress is None if progress is None else progress
    if not printed or sys.stderr is None:
        yield on_progress or (lambda _: None)
        return
    view = LoadBar(name, sys.stderr) if bar else LoadLines(sys.stderr)

    def tell(event: Progress) -> None:
        view.tell(event)
        if on_progress:
            on_progress(event)

    try:
        yield tell
    finally:
        view.close()


class Bar:
    """One line of a terminal that is overwritten again and again: a bar, bytes, bytes a second, time left."""

    def __init__(self, out: TextIO, now: Callable[[], float] = monotonic) -> None:
        self._out = out
        self._now = now
        self._points: deque[tuple[float, int]] = deque()
        self._width = 0  # of the text in the line
        self._drawn = -_DRAW_S

    def update(self, label: str, done: int, total: int) -> None:
        """Show `done` of `total` bytes. Draws at most ten times a second, and always at the end."""
        now, points = self._now(), self._points
        if points and done < points[-1][1]:
            points.clear()
        points.append((now, done))
        while len(points) > 2 and now - points[0][0] > _RATE_S:
            points.popleft()
        if done < total and now - self._drawn < _DRAW_S:
            return
        self._drawn = now
        self.show(self._line(label, done, total))

    def _line(self, label: str, done: int, total: int) -> str:
        part = min(done / total, 1.0) if total else 0.0
        filled = int(part * _BAR)
        text = f" [{'#' * filled}{'.' * (_BAR - filled)}] {part:4.0%}  {amount(done, total)}"
        took = self._points[-1][0] - self._points[0][0]
        came = self._points[-1][1] - self._points[0][1]
        if took >= _GUESS_S and came > 0:
            text += f", {came / took / 1e6:.1f} MB/s"
            if done < total:
                text += f", {duration((total - done) * took / came)} left"
        return _end_of(label, _columns() - len(text)) + text

    def show(self, text: str) -> None:
        """Overwrite the line with `text`."""
        text = text[: _columns()]
        self._write("\r" + text.ljust(self._width))
        self._width = len(text)

    def note(self, text: str) -> None:
        """Write a line of its own above the bar."""
        self.clear()
        self._write(text + "\n")

    def clear(self) -> None:
        """Erase the line."""
        if self._width:
            self._write("\r" + " " * self._width + "\r")
            self._width = 0

    def _write(self, text: str) -> None:
        encoding = getattr(self._out, "encoding", None) or "utf-8"
        self._out.write(text.encode(encoding, "replace").decode(encoding))
        self._out.flush()


class LoadBar:
    """Shows a load as one line, and at its end what was loaded."""

    def __init__(self, name: str, out: TextIO) -> None:
        self._name = name
        self._bar = Bar(out)
        self._began = monotonic()
        self._total = 0

    def tell(self, event: Progress) -> None:
        """Show where the load is."""
        if event.phase == "note":
            self._bar.note(event.message)
        elif event.phase == "weights":
            self._total = event.total
            self._bar.update(self._name, event.loaded, event.total)
        elif event.phase == "ready":
            size = (
                f" {amount(self._total, self._total).partition(' of ')[2]}" if self._total else ""
            )
            self._bar.note(f"{self._name}: loaded{size} in {monotonic() - self._began:.1f} s")
        else:
            self._bar.show(f"{self._name}: {event.message}")

    def close(self) -> None:
        """Erase the bar, whether the load went well or not."""
        self._bar.clear()


class LoadLines:
    """Shows a load as lines, the weights in steps of ten percent: for files and pipes."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._said = ""

    def tell(self, event: Progress) -> None:
        """Print where the load is, unless the last line says the same."""
        line = event.message
        if event.phase == "weights":
            done = 100 * event.loaded // max(event.total, 1)
            line = f"weights {done // 10 * 10} % of {event.total / 1e6:.0f} MB"
        if line != self._said:
            self._said = line
            print(line, file=self._out, flush=True)

    def close(self) -> None:
        """Do nothing: no line is left open."""


def _columns() -> int:
    """The most characters of a line. One less than the width: a full line would begin another one."""
    return shutil.get_terminal_size((_COLUMNS, 24)).columns - 1


def _end_of(label: str, room: int) -> str:
    """The label, or the end of one that is too long, since names of models and files differ there."""
    return label if len(label) <= room else "..." + label[-max(room - 3, 1) :]


def amount(done: int, total: int) -> str:
    """`42 of 98 MB`, in a unit that suits the total."""
    unit, name = next(
        ((unit, name) for unit, name in ((10**9, "GB"), (10**6, "MB")) if total >= unit),
        (10**3, "kB"),
    )
    places = 1 if unit == 10**9 else 0
    return f"{done / unit:.{places}f} of {total / unit:.{places}f} {name}"


def duration(seconds: float) -> str:
    """A coarse time, since it is a guess: `40 s`, `3 min`, `1.5 h`."""
    if seconds < 60:
        return f"{max(1, round(seconds))} s"
    return f"{seconds / 60:.0f} min" if seconds < 3600 else f"{seconds / 3600:.1f} h"
