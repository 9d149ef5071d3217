# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Progress as a phase counts it and as a log tells it, by a clock that waits to be moved."""

import io

import pytest

from qkit.cli.progress import Lines, number, span
from qkit.progress import Phase, Silent


class Clock:
    """Stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Log(io.StringIO):
    """A file on disk: it holds what was flushed."""

    said = ""

    def flush(self) -> None:
        self.said = self.getvalue()


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def log():
    return Log()


@pytest.fixture
def lines(log, clock):
    return Lines(log, clock)


def test_silent_takes_figures_and_passes_errors_on():
    with Silent().phase("train", 3) as advance:
        advance(1)
        advance(2, cosine=0.98, done=1.0)
    with pytest.raises(ValueError, match="mine"), Silent().phase("train", None):
        raise ValueError("mine")


def test_pace_is_that_of_the_items_counted(clock):
    phase = Phase("observe", 256, clock)
    clock.now += 4
    assert (phase.rate, phase.left) == (None, None)
    phase.advance(64)
    assert (phase.rate, phase.left, phase.seconds) == (16, 12, 4)


def test_between_items_the_rate_holds_and_the_time_left_runs_down_to_nothing(clock):
    phase = Phase("observe", 256, clock)
    clock.now += 4
    phase.advance(64)
    clock.now += 2
    assert (phase.rate, phase.left, phase.seconds) == (16, 10, 6)
    clock.now += 50
    assert (phase.rate, phase.left) == (16, 0)


def test_an_ended_phase_counts_all_its_time_and_stands_still(clock):
    phase = Phase("observe", 64, clock)
    clock.now += 4
    phase.advance(64)
    clock.now += 4
    phase.end = clock()
    clock.now += 100
    assert (phase.rate, phase.seconds) == (8, 8)


def test_the_last_figures_are_kept_by_name(clock):
    phase = Phase("measure", 8, clock)
    phase.advance(2, image=0.9, text=0.8)
    phase.advance(1, text=0.7)
    assert (phase.figures, phase.done) == ({"image": 0.9, "text": 0.7}, 3)


def test_a_phase_ends_with_one_line(lines, log, clock):
    with lines.phase("observe calibration data", 256) as advance:
        clock.now += 6.3
        advance(128)
        clock.now += 6
        advance(128)
        assert log.said == ""
    assert log.said == "observe calibration data: 256 in 12.3 s, 20.8/s\n"


def test_the_last_figures_are_in_the_line(lines, log, clock):
    with lines.phase("measure", 2) as advance:
        clock.now += 1
        advance(1, cosine=0.5, text_loss=12.345)
        clock.now += 1
        advance(1, cosine=0.98212)
    assert log.said == "measure: 2 in 2.0 s, 1.00/s, cosine 0.982, text loss 12.3\n"


@pytest.mark.parametrize(
    ("total", "done", "said"),
    [
        (None, 0, "load: 0.8 s"),
        (None, 4, "load: 4 in 0.8 s, 5.00/s"),
        (12, 0, "load: 0 of 12 in 0.8 s"),
        (12, 4, "load: 4 of 12 in 0.8 s, 5.00/s"),
        (0, 0, "load: 0 in 0.8 s"),
    ],
)
def test_what_was_left_out_and_what_was_never_counted(lines, log, clock, total, done, said):
    with lines.phase("load", total) as advance:
        clock.now += 0.8
        advance(done)
    assert log.said == f"{said}\n"


def test_an_instant_phase_still_has_its_line(lines, log):
    with lines.phase("blink", 3) as advance:
        advance(3)
    assert log.said == "blink: 3 in 0.0 s\n"


def test_a_long_phase_has_a_line_every_ten_seconds_at_most(lines, log, clock):
    with lines.phase("observe", 256) as advance:
        for _ in range(128):
            clock.now += 0.25
            advance(2, cosine=0.9)
    assert log.said.splitlines() == [
        "observe: 80 of 256, 8.00/s, 22.0 s left, cosine 0.900",
        "observe: 160 of 256, 8.00/s, 12.0 s left, cosine 0.900",
        "observe: 240 of 256, 8.00/s, 2.0 s left, cosine 0.900",
        "observe: 256 in 32.0 s, 8.00/s, cosine 0.900",
    ]


def test_slow_items_have_a_line_each_and_the_last_has_none_of_its_own(lines, log, clock):
    with lines.phase("observe", 3) as advance:
        for _ in range(3):
            clock.now += 60
            advance(1)
    assert log.said.splitlines() == [
        "observe: 1 of 3, 0.0167/s, 2:00 min left",
        "observe: 2 of 3, 0.0167/s, 1:00 min left",
        "observe: 3 in 3:00 min, 0.0167/s",
    ]


def test_without_a_total_only_the_end_is_printed(lines, log, clock):
    with lines.phase("read", None) as advance:
        for _ in range(5):
            clock.now += 20
            advance(1)
    assert log.said == "read: 5 in 1:40 min, 0.0500/s\n"


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
@pytest.mark.parametrize(
    ("total", "done", "said"),
    [
        (4, 2, "observe: stopped at 2 of 4 after 3.0 s"),
        (4, 4, "observe: stopped at 4 after 3.0 s"),  # all counted, and then it failed
        (None, 0, "observe: stopped after 3.0 s"),
    ],
)
def test_a_failing_phase_is_said_to_stop(lines, log, clock, error, total, done, said):
    def job() -> None:
        with lines.phase("observe", total) as advance:
            clock.now += 3
            advance(done)
            raise error

    with pytest.raises(error):
        job()
    assert log.said == f"{said}\n"


def test_the_name_of_a_file_breaks_no_line(lines, log):
    with lines.phase("encode \x1b[31mred\r\nimages\udcff [bold]", None):
        pass
    assert log.said == "encode  [31mred  images  [bold]: 0.0 s\n"


def test_numbers_have_three_digits():
    texts = ["0.982", "0.00", "20.8", "104", "1000", "1234", "-0.500", "1.20e-05", "nan", "inf"]
    values = [0.98212, 0, 20.81, 104.2, 999.7, 1234.4, -0.5, 1.2e-5, float("nan"), float("inf")]
    assert [number(value) for value in values] == texts


def test_times_carry_their_unit():
    texts = ["0.0 s", "59.9 s", "1:00 min", "2:05 min", "1:00:00 h", "1:02:05 h"]
    assert [span(seconds) for seconds in (0.04, 59.94, 59.96, 125, 3599.6, 3725)] == texts
