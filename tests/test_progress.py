"""How the progress of a load is shown: on a terminal, in a notebook, elsewhere."""

from __future__ import annotations

import io
import sys
from types import SimpleNamespace

import pytest

from py_engine.serve.options import Progress
from py_engine.serve.progress import Bar, LoadBar, amount, duration, showing


class Terminal(io.StringIO):
    """A stream that reports itself as a terminal."""

    def isatty(self) -> bool:
        return True


def on_screen(written: str) -> list[str]:
    """What a terminal would show of the output: a carriage return starts the line again."""
    lines = []
    for line in written.split("\n"):
        cells: list[str] = []
        for part in line.split("\r"):
            cells[: len(part)] = part
        lines.append("".join(cells).rstrip())
    return lines


def test_bytes_rate_and_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    clock = [0.0]
    out = Terminal()
    bar = Bar(out, lambda: clock[0])
    for second in range(5):
        clock[0] = float(second)
        bar.update("model", second * 10_000_000, 100_000_000)
    assert on_screen(out.getvalue()) == [
        "model [########............]  40%  40 of 100 MB, 10.0 MB/s, 6 s left"
    ]
    bar.note("a note")
    clock[0] = 5.0
    bar.update("model", 50_000_000, 100_000_000)
    first, second_line = on_screen(out.getvalue())
    assert first == "a note" and second_line.startswith("model [##########....")
    bar.clear()
    assert on_screen(out.getvalue()) == ["a note", ""]


def test_a_bar_stays_in_its_line_and_draws_seldom(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    clock = [0.0]
    out = Terminal()
    bar = Bar(out, lambda: clock[0])
    for step in range(10_000):
        clock[0] += 0.001
        bar.update("path/" * 20 + "name", step + 1, 10_000)
    assert max(map(len, out.getvalue().split("\r"))) < 60
    assert "/name [####################]" in on_screen(out.getvalue())[0]
    assert out.getvalue().count("\r") <= 110
    bar.update("b", 0, 0)  # the size is unknown


def test_what_a_stream_cannot_write_does_not_end_a_load() -> None:
    raw = io.BytesIO()
    out = io.TextIOWrapper(raw, encoding="ascii")
    LoadBar("größe/模型", out).tell(Progress("ready"))
    assert b"loaded" in raw.getvalue()


def test_a_terminal_and_a_notebook_are_told_and_nobody_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    events = [
        Progress("config", message="Reading x"),
        Progress("weights", 5, 10),
        Progress("ready"),
    ]

    def told(
        stream: io.StringIO | None, progress: bool | None = None, callback: bool = False
    ) -> str:
        monkeypatch.setattr(sys, "stderr", stream)
        heard: list[Progress] = []
        with showing("x", heard.append if callback else None, progress) as tell:
            for event in events:
                tell(event)
        assert heard == (events if callback else [])
        return stream.getvalue() if stream else ""

    monkeypatch.setenv("TERM", "xterm")
    assert "x: loaded" in told(Terminal())
    assert told(Terminal(), progress=False) == ""
    assert told(Terminal(), callback=True) == "", "whoever listens shows it in a way of their own"
    assert "x: loaded" in told(Terminal(), progress=True, callback=True)
    assert told(io.StringIO()) == ""
    assert told(io.StringIO(), progress=True).splitlines()[0] == "Reading x"
    assert told(None) == "" and told(None, progress=True) == ""
    closed = io.StringIO()
    closed.close()
    monkeypatch.setattr(sys, "stderr", closed)
    with showing("x", None, None) as tell:
        tell(events[0])
    monkeypatch.setenv("TERM", "dumb")
    assert told(Terminal()) == ""
    shell = SimpleNamespace(kernel=object())
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
    assert "x: loaded" in told(io.StringIO())
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: None))
    assert told(io.StringIO()) == ""


def test_a_load_that_fails_leaves_no_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    out = Terminal()
    monkeypatch.setattr(sys, "stderr", out)
    with pytest.raises(ZeroDivisionError), showing("x", None, None) as tell:
        tell(Progress("weights", 10**6, 10**7))
        raise ZeroDivisionError
    assert on_screen(out.getvalue()) == [""]


@pytest.mark.parametrize(
    ("done", "total", "text"),
    [(42_000_000, 98_000_000, "42 of 98 MB"), (0, 5, "0 of 0 kB"), (1_500_000_000, 2_000_000_000, "1.5 of 2.0 GB")],
)  # fmt: skip
def test_amounts(done: int, total: int, text: str) -> None:
    assert amount(done, total) == text


def test_durations() -> None:
    assert [duration(s) for s in (0.1, 40, 90, 5400)] == ["1 s", "40 s", "2 min", "1.5 h"]
