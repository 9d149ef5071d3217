# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""The contract test that every calibrator must pass, ours and third parties' alike.

In a plug-in's own tests::

    from qkit.testing import check_calibrator
    def test_contract():
        check_calibrator(MyCalibrator)
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch

from qkit.calibration.protocol import Calibrator
from qkit.calibration.session import CalibrationSession
from qkit.errors import CalibrationError
from qkit.observers import make_observer, read_stats, weight_stats
from qkit.spec import Granularity, PointId, QParams, QuantSpec, TensorStats


def check_calibrator(cls: type[Any]) -> None:
    """Run ``cls`` with its default options on small tensors of every kind and check the result.

    Checked: default-constructible frozen dataclass with a docstring; a scale for exactly the
    session's points, of the right shape and type, finite and positive; zero points on the grid, 0
    where symmetric; progress told once a point; the same result twice; statistics left unchanged.

    Raises:
        CalibrationError: the first part of the contract that is broken.
    """
    _require(dataclasses.is_dataclass(cls), f"{cls.__name__} is no dataclass")
    _require(cls.__dataclass_params__.frozen, f"{cls.__name__} is not frozen")
    # without one, dataclass writes the signature there
    documented = bool(cls.__doc__) and not str(cls.__doc__).startswith(f"{cls.__name__}(")
    _require(documented, f"{cls.__name__} has no docstring to list it by")
    _require_defaults(cls)
    calibrator: Any = cls()
    _require(isinstance(calibrator, Calibrator), f"{cls.__name__} has no calibrate()")
    session = example_session()
    steps: list[int] = []

    def advance(done: int, /, **_: float) -> None:
        steps.append(done)

    before = {point: _copy(stats) for point, stats in session.seen.items()}
    first = dict(calibrator.calibrate(session, advance))
    _require(set(first) == set(session.points), f"{cls.__name__} did not return every point once")
    _require(sum(steps) == len(session.points), f"{cls.__name__} did not advance once a point")
    for point, spec in session.points.items():
        _check_qparams(point, spec, session.stats(point), first[point])
    for point, stats in session.seen.items():
        _require(_equal(stats, before[point]), f"{cls.__name__} changed the statistics of {point}")
    again = cls().calibrate(session, advance)
    same = all(torch.equal(a, b) for p in first for a, b in zip(first[p], again[p], strict=True))
    _require(same, f"{cls.__name__} gives another result the second time")


def example_session(seed: int = 0) -> CalibrationSession:
    """Statistics of small tensors: weights and activations, symmetric and not, 2 to 8 bits.

    Among them are outliers, a dead channel and a single-signed activation.
    """
    generator = torch.Generator().manual_seed(seed)
    data = torch.randn(4, 10, 8, generator=generator)
    data[0, 0, 0] = 60.0
    weight = torch.randn(6, 8, generator=generator)
    weight[2] = 0.0
    points: dict[PointId, QuantSpec] = {}
    seen: dict[PointId, TensorStats] = {}
    for bits in (2, 4, 8):
        for symmetric in (False, True):
            for granularity in (Granularity.TENSOR, Granularity.CHANNEL):
                spec = QuantSpec(bits, symmetric, granularity)
                name = f"layer{bits}.{granularity}.{'symmetric' if symmetric else 'affine'}"
                observer = make_observer(spec, axis=-1)
                observer(data if symmetric else data.abs())
                points[PointId(name, "weight")] = points[PointId(name, "input")] = spec
                seen[PointId(name, "weight")] = weight_stats(weight, granularity)
                seen[PointId(name, "input")] = read_stats(observer)
    return CalibrationSession(points, seen)


def _check_qparams(point: PointId, spec: QuantSpec, stats: TensorStats, q: QParams) -> None:
    shape = stats.min_val.shape
    _require(q.scale.shape == shape, f"scale of {point} has shape {tuple(q.scale.shape)}")
    _require(q.zero_point.shape == shape, f"zero point of {point} has the wrong shape")
    _require(q.scale.dtype == torch.float32, f"scale of {point} is {q.scale.dtype}, not float32")
    _require(q.zero_point.dtype == torch.int32, f"zero point of {point} is not int32")
    good = torch.isfinite(q.scale) & (q.scale > 0)
    _require(bool(good.all()), f"scale of {point} is not finite and positive")
    on_grid = (q.zero_point >= spec.quant_min) & (q.zero_point <= spec.quant_max)
    _require(bool(on_grid.all()), f"zero point of {point} is off the grid")
    _require(not spec.symmetric or not bool(q.zero_point.any()), f"zero point of {point} is not 0")


def _require_defaults(cls: type[Any]) -> None:
    missing = dataclasses.MISSING
    for option in (field for field in dataclasses.fields(cls) if field.init):
        has_one = option.default is not missing or option.default_factory is not missing
        _require(has_one, f"{cls.__name__} has no default for its option {option.name!r}")


def _copy(stats: TensorStats) -> tuple[torch.Tensor, ...]:
    return tuple(t.clone() for t in _tensors(stats))


def _equal(stats: TensorStats, copy: tuple[torch.Tensor, ...]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(_tensors(stats), copy, strict=True))


def _tensors(stats: TensorStats) -> list[torch.Tensor]:
    values = [] if stats.values is None else [stats.values]
    histogram = [] if stats.histogram is None else list(stats.histogram)
    return [stats.min_val, stats.max_val, *values, *histogram]


def _require(condition: bool, fact: str) -> None:
    if not condition:
        message = f"calibrator contract broken: {fact}. See qkit.testing.check_calibrator."
        raise CalibrationError(message)
