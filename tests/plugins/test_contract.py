# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""qkit.testing.check_calibrator finds every way to break the contract."""

import dataclasses
from dataclasses import dataclass

import pytest

from calibrators.minmax import MinMax
from qkit.errors import CalibrationError
from qkit.numerics import qparams_from_range
from qkit.spec import QParams, Range
from qkit.testing import check_calibrator


@dataclass(frozen=True)
class Sound(MinMax):
    """Min-max, which the broken ones below differ from in one way each."""

    def calibrate(self, session, advance):
        found = {}
        for point, spec in session.points.items():
            q = qparams_from_range(self.choose_range(session.stats(point), spec), spec)
            found[point] = self.spoil(point, spec, session.stats(point), q)
            advance(1)
        return self.spoil_all(found)

    def spoil(self, point, spec, stats, q):
        return q

    def spoil_all(self, found):
        return found


def frozen(name, **methods):
    """A subclass of the sound calibrator that is as frozen and as documented."""
    cls = type(name, (Sound,), {"__doc__": f"{name}.", "__module__": __name__, **methods})
    return dataclasses.dataclass(frozen=True)(cls)


def spoiled(change):
    return frozen("Broken", spoil=lambda self, point, spec, stats, q: change(spec, stats, q))


def refuse(cls, fact):
    with pytest.raises(CalibrationError, match=rf"^calibrator contract broken: .*{fact}.*\. See"):
        check_calibrator(cls)


def test_the_sound_one_passes():
    check_calibrator(Sound)
    check_calibrator(frozen("Other"))


def test_missing_point():
    drop = frozen("Forgetful", spoil_all=lambda self, found: dict(list(found.items())[1:]))
    refuse(drop, "Forgetful did not return every point once")


def test_extra_point():
    def add(self, found):
        point, q = next(iter(found.items()))
        return {**found, dataclasses.replace(point, module="nowhere"): q}

    refuse(frozen("Generous", spoil_all=add), "Generous did not return every point once")


def test_progress_not_told():
    silent = frozen("Silent", calibrate=lambda self, s, advance: Sound().calibrate(s, len_of))
    refuse(silent, "Silent did not advance once a point")


def len_of(done):
    """Swallows progress."""


@pytest.mark.parametrize(
    ("change", "fact"),
    [
        (lambda spec, stats, q: QParams(-q.scale, q.zero_point), "is not finite and positive"),
        (lambda spec, stats, q: QParams(0 * q.scale, q.zero_point), "is not finite and positive"),
        (lambda spec, stats, q: QParams(q.scale / 0, q.zero_point), "is not finite and positive"),
        (
            lambda spec, stats, q: QParams(q.scale.double(), q.zero_point),
            "is torch.float64, not float32",
        ),
        (lambda spec, stats, q: QParams(q.scale, q.zero_point.long()), "zero point.* is not int32"),
        (
            lambda spec, stats, q: QParams(q.scale.reshape(-1), q.zero_point),
            r"scale of layer2.tensor.* has shape \(1,\)",
        ),
        (
            lambda spec, stats, q: QParams(q.scale, q.zero_point.reshape(-1)),
            "zero point of layer2.tensor.* has the wrong shape",
        ),
        (
            lambda spec, stats, q: QParams(q.scale, q.zero_point + spec.quant_max + 1),
            "zero point of .* is off the grid",
        ),
        (
            lambda spec, stats, q: QParams(q.scale, q.zero_point + int(spec.symmetric)),
            r"zero point of .*symmetric:weight is not 0",
        ),
    ],
)
def test_unusable_scale_or_zero_point(change, fact):
    refuse(spoiled(change), fact)


def test_another_result_the_second_time():
    calls = []

    def drift(spec, stats, q):
        calls.append(q)
        return QParams(q.scale + len(calls), q.zero_point)

    refuse(spoiled(drift), "Broken gives another result the second time")


@pytest.mark.parametrize(
    "change",
    [
        lambda stats: stats.min_val.clamp_(max=-100),
        lambda stats: stats.max_val.mul_(1.5),
        lambda stats: stats.values is None or stats.values.zero_(),
        lambda stats: stats.histogram is None or stats.histogram.counts.zero_(),
        lambda stats: stats.histogram is None or stats.histogram.high.add_(1),
    ],
    ids=["min", "max", "values", "counts", "high"],
)
def test_statistics_changed(change):
    def meddle(self, stats, spec):
        full = Range(stats.min_val.clone(), stats.max_val.clone())
        change(stats)
        return full

    refuse(frozen("Meddler", choose_range=meddle), "Meddler changed the statistics of layer2")
