# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""What a calibrator's class must be, and what the contract test runs it on."""

import dataclasses
from dataclasses import dataclass

import pytest
import torch

from calibrators.minmax import MinMax
from qkit.errors import CalibrationError
from qkit.testing import check_calibrator, example_session


def documented(name, text):
    """Min-max under another name and docstring."""
    cls = type(name, (MinMax,), {"__doc__": text, "__module__": __name__})
    return dataclasses.dataclass(frozen=True)(cls)


def refuse(cls, fact):
    with pytest.raises(CalibrationError, match=rf"^calibrator contract broken: .*{fact}.*\. See"):
        check_calibrator(cls)


def test_a_docstring_is_enough():
    check_calibrator(documented("Other", "Says what it does."))


def test_no_docstring():
    refuse(documented("Terse", None), "Terse has no docstring")
    refuse(documented("Blank", ""), "Blank has no docstring")


def test_not_frozen():
    @dataclass
    class Loose:
        """Can be changed."""

        def calibrate(self, session, advance):
            return MinMax().calibrate(session, advance)

    refuse(Loose, "Loose is not frozen")


def test_no_dataclass():
    class Plain:
        """Has no fields."""

        def calibrate(self, session, advance):
            return MinMax().calibrate(session, advance)

    refuse(Plain, "Plain is no dataclass")


def test_no_calibrate():
    @dataclass(frozen=True)
    class Idle:
        """Does nothing."""

    refuse(Idle, r"Idle has no calibrate\(\)")


def test_an_option_without_a_default():
    @dataclass(frozen=True)
    class Demanding(MinMax):
        """Needs to be told."""

        share: float

    refuse(Demanding, "Demanding.*share")


def test_an_option_that_is_computed_needs_no_default():
    @dataclass(frozen=True)
    class Prepared(MinMax):
        """Computes something of its options once."""

        share: float = 1.0
        half: float = dataclasses.field(init=False)

        def __post_init__(self):
            object.__setattr__(self, "half", self.share / 2)

    check_calibrator(Prepared)


def test_the_example_covers_both_kinds_signs_granularities_and_an_outlier():
    session = example_session()
    assert session.points.keys() == session.seen.keys()
    assert {point.role for point in session.points} == {"weight", "input"}
    specs = set(session.points.values())
    assert {spec.bits for spec in specs} == {2, 4, 8}
    assert {(s.symmetric, s.granularity.value) for s in specs} == {
        (sign, granularity) for sign in (True, False) for granularity in ("tensor", "channel")
    }
    weights = [stats for stats in session.seen.values() if stats.values is not None]
    assert any(bool((stats.values == 0).all(dim=1).any()) for stats in weights)
    assert all(torch.isfinite(stats.max_val).all() for stats in session.seen.values())
    assert max(float(stats.max_val.max()) for stats in session.seen.values()) == 60.0
