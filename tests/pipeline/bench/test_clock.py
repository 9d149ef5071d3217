# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Jobs are timed in turn, and summed up by median and quartiles."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from qkit.pipeline.bench.clock import interleaved, summarize, threads
from qkit.progress import ignore

SECONDS = st.floats(1e-6, 1e3)


def test_jobs_run_in_turn_and_the_first_rounds_do_not_count():
    calls, rounds = [], []
    works = {name: lambda name=name: calls.append(name) for name in "ABC"}
    found = interleaved(works, 2, 3, rounds.append)
    assert calls == 5 * ["A", "B", "C"]
    assert {name: len(readings) for name, readings in found.items()} == dict.fromkeys("ABC", 3)
    assert rounds == 5 * [1]


def test_sleeping_takes_the_clock_s_time_and_not_the_processor_s(monkeypatch):
    cpu, wall = iter([1.0, 1.5]), iter([10.0, 30.0])
    monkeypatch.setattr("time.process_time", lambda: next(cpu))
    monkeypatch.setattr("time.perf_counter", lambda: next(wall))
    assert interleaved({"A": lambda: None}, 0, 1, ignore) == {"A": [(0.5, 20.0)]}


def test_median_and_distance_between_the_quartiles():
    timing = summarize([5.0, 1.0, 2.0, 4.0, 3.0])
    assert (timing.median, timing.spread) == (3.0, 2.0)
    assert summarize([7.0]).spread == 0.0


@given(st.lists(SECONDS, min_size=1, max_size=9))
def test_the_median_lies_among_the_values_and_the_spread_within_their_range(values):
    timing = summarize(values)
    assert min(values) <= timing.median <= max(values)
    assert 0 <= timing.spread <= max(values) - min(values)


def test_threads_are_given_for_a_while():
    before = torch.get_num_threads()
    with threads(before + 1) as some:
        assert some == torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before
    with threads(None) as left:
        assert left == before


def test_threads_are_given_back_when_a_job_fails():
    before = torch.get_num_threads()

    def fail():
        with threads(before + 1):
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert torch.get_num_threads() == before
