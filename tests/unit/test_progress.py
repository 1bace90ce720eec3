"""Without a terminal, long work says a line now and then on stderr, and nothing on stdout."""

from __future__ import annotations

import io
import sys

import pytest

from ytrainer_core import progress
from ytrainer_core.progress import Progress


class Clock:
    """A clock that a test sets."""

    now = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    return clock


def test_one_line_a_minute_where_there_is_no_terminal(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    with Progress("training", 10) as bar:
        for seconds in (1, 59, 60, 61, 119, 120):
            clock.now = seconds
            bar.advance(note="loss 2.5")
    out, err = capsys.readouterr()
    assert err.splitlines() == ["training: 3/10 loss 2.5", "training: 6/10 loss 2.5"]
    assert out == ""


def test_the_pause_is_a_variable(
    clock: Clock, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("YTRAINER_PROGRESS_SECONDS", "0")
    with Progress("scoring", 3) as bar:
        bar.advance(2)
        bar.advance()
    assert capsys.readouterr().err.splitlines() == ["scoring: 2/3", "scoring: 3/3"]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_gets_a_bar_that_is_gone_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    with Progress("training", 4) as bar:
        bar.advance(3, note="loss 2.5")
        bar._bar.refresh()  # type: ignore[union-attr]
        shown = terminal.getvalue()
    assert "3/4" in shown and "loss 2.5" in shown
    assert "\x1b[?25h" in terminal.getvalue()[len(shown) :]  # the cursor is back
