# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Progress on a terminal and in a pipe, by a clock that waits to be moved."""

import io
import json
import re
import sys
import warnings

import pytest
from rich.console import Console

from qkit.cli.console import progress_bars, reported
from qkit.cli.progress import Bars
from qkit.errors import DataError, QkitWarning

LONG = "w4a4-mse-token: observe calibration data"
CODES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class Screen(io.StringIO):
    """A terminal."""

    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


class Terminal:
    """Bars on a screen that is refreshed when it is looked at."""

    def __init__(self, width: int) -> None:
        self.now, self.width, self.screen = 100.0, width, Screen()
        console = Console(file=self.screen, force_terminal=True, width=width, soft_wrap=True)
        self.bars = Bars(console, lambda: self.now)
        self.bars.live.auto_refresh = False
        self.phase = self.bars.phase

    def printed(self) -> list[str]:
        """The lines since the last call, without escape codes."""
        lines = re.split(r"[\r\n]+", CODES.sub("", self.screen.getvalue()))
        self.screen.truncate(self.screen.seek(0))
        return [line.rstrip() for line in lines if line.strip()]

    def look(self) -> list[str]:
        """The bars as the next refresh shows them."""
        self.printed()
        self.bars.live.refresh()
        below = "\n" if self.bars.running else ""  # there a ^C is echoed, and breaks no bar
        assert self.screen.getvalue().endswith(below)
        return self.printed()


@pytest.fixture(params=[80, 160])
def terminal(request):
    terminal = Terminal(request.param)
    with terminal.bars.live:
        yield terminal


@pytest.fixture
def environment(monkeypatch):
    """Choose what rich reads of the environment."""

    def choose(**settings: str) -> None:
        for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE", "COLORTERM"):
            monkeypatch.delenv(name, raising=False)
        for name, value in settings.items():
            monkeypatch.setenv(name, value)

    return choose


def test_a_bar_fits_and_keeps_its_numbers(terminal):
    with terminal.phase(LONG, 4096) as advance:
        terminal.now += 12
        advance(1250, image=0.98212, text=0.99)
        terminal.now += 1
        (line,) = terminal.look()
    assert len(line) <= terminal.width
    assert line.endswith(" 1250/4096 104/s  0:13, 0:26 left image 0.982 text 0.990")
    name, bar = {80: ("w4a4-mse-token:…", 5), 160: (LONG, 40)}[terminal.width]
    assert re.match(rf". {name} +[━╸╺]{{{bar}}} ", line)


def test_long_numbers_are_whole(terminal):
    with terminal.phase(LONG, 1_000_000) as advance:
        terminal.now += 7200
        advance(400_000, cosine=0.98212)
        (line,) = terminal.look()
    assert line.endswith(" 400000/1000000 55.6/s 2:00:00, 3:00:00 left cosine 0.982")
    assert len(line) <= terminal.width


def test_a_phase_that_ended_keeps_one_line_with_the_time_it_took(terminal):
    with terminal.phase("observe calibration data", 256) as advance:
        terminal.now += 12.3
        advance(256, cosine=0.98212)
        terminal.look()
    (line,) = terminal.printed()
    assert line.startswith("✓ observe calibration data ")
    assert line.endswith("256/256   20.8/s took 12.3 s     cosine 0.982")
    assert terminal.look() == []


def test_a_phase_without_total_has_no_count(terminal):
    with terminal.phase("load model", None):
        terminal.now += 61
        (running,) = terminal.look()
    (ended,) = terminal.printed()
    assert re.fullmatch(r". load model +━+ +1:01", running)
    assert re.fullmatch(r"✓ load model +━+ +took 1:01 min", ended)


@pytest.mark.parametrize("error", [DataError, KeyboardInterrupt])
@pytest.mark.parametrize(("total", "done"), [(4, 2), (4, 4), (None, 0)])
def test_a_failing_phase_is_not_shown_as_finished(terminal, error, total, done):
    def job() -> None:
        with terminal.phase("observe", total) as advance:
            terminal.now += 3
            advance(done)
            terminal.look()
            raise error

    with pytest.raises(error):
        job()
    (line,) = terminal.printed()
    assert line.startswith("✗ observe ")
    assert line.endswith(" 3.0 s, stopped")
    assert terminal.look() == []


def test_phases_that_run_together_have_a_bar_each_and_names_are_no_markup(terminal):
    with terminal.phase("outer [bold]", 2), terminal.phase("inner [/x]", 4) as advance:
        advance(3)
        outer, inner = terminal.look()
    assert re.match(r". outer \[bold\] .* 0/2 ", outer)
    assert re.match(r". inner \[/x\] .* 3/4 ", inner)


def test_a_note_is_printed_above_the_bars():
    terminal = Terminal(80)

    @reported
    def command() -> None:
        with terminal.bars.live, terminal.phase("observe", 2):
            terminal.look()
            warnings.warn("a tower is left out", QkitWarning, stacklevel=1)
            note, bar = terminal.printed()
            assert note == "note: a tower is left out"
            assert "observe" in bar

    command()


@pytest.mark.parametrize(
    ("settings", "encoding", "drawn"),
    [
        ({"TERM": "xterm"}, "utf-8", True),
        ({"TERM": "xterm", "NO_COLOR": "1"}, "utf-8", True),
        ({"TERM": "dumb"}, "utf-8", False),
        ({"TERM": "xterm"}, "ascii", False),
    ],
)
def test_bars_are_drawn_where_they_can_be(monkeypatch, environment, settings, encoding, drawn):
    environment(**settings)
    screen = Screen()
    monkeypatch.setattr(screen, "encoding", encoding)
    monkeypatch.setattr(sys, "stderr", screen)
    with progress_bars() as progress, progress.phase("observe", 1) as advance:
        advance(1)
    text = screen.getvalue()
    assert ("✓ observe" in CODES.sub("", text)) == drawn
    assert ("\x1b[32m" in text) == (drawn and "NO_COLOR" not in settings)
    assert (re.fullmatch(r"observe: 1 in \S+ s, \S+/s\n", text) is not None) != drawn


@pytest.mark.parametrize("settings", [{}, {"FORCE_COLOR": "1"}])
def test_a_piped_calibration_logs_to_stderr_alone(qkit, calibrate_args, environment, settings):
    environment(**settings)
    result = qkit(*calibrate_args, "--bits=8", "--method=minmax", "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["label"].startswith("W8A8")
    for name in ("load model", "observe calibration data", r"choose scales \(minmax\)"):
        line = rf"^{name}: (\d+ in )?\S+ s(, \S+/s)?$"
        assert len(re.findall(line, result.stderr, re.MULTILINE)) == 1, result.stderr
    assert not {"\r", "\x1b"} & set(result.stderr)


def test_a_failing_calibration_does_not_finish_its_phase(qkit, calibrate_args, monkeypatch):
    def broken(*_: object) -> None:
        raise DataError("cannot read it")

    monkeypatch.setattr("qkit.pipeline.steps.observe", broken)
    loaded, stopped, error = qkit(*calibrate_args).stderr.splitlines()
    assert loaded.startswith("load model: ")
    assert stopped.startswith("observe calibration data: stopped at 0 of ")
    assert error == "error: cannot read it"
