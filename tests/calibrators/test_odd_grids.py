# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""What each calibrator makes of a grid that is not uniform."""

from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F

from calibrators.entropy.calibrator import Entropy
from calibrators.minmax import MinMax
from calibrators.mse import Mse
from calibrators.percentile import Percentile, quantile
from qkit.calibration.protocol import TensorCalibrator
from qkit.calibration.session import CalibrationSession
from qkit.errors import CalibrationError
from qkit.grids.codebook import codebook, grid_of
from qkit.grids.shapes import SHAPES
from qkit.observers import make_observer, read_stats
from qkit.progress import ignore
from qkit.spec import GridKind, PointId, QuantSpec, Range

POINT = PointId("a", "probs")
GELU = (GridKind.TWIN_SIGNED, GridKind.SHIFTED_LOG)


@dataclass(frozen=True)
class Halved(TensorCalibrator):
    """The one that the README shows: it knows nothing of grids."""

    def choose_range(self, stats, spec):
        return Range(stats.min_val / 2, stats.max_val / 2)


@pytest.fixture
def data(normal):
    """Something that each grid is made for."""
    probs = (3 * normal(4, 100, 200)).softmax(dim=-1)
    after_gelu = F.gelu(1.5 * normal(4, 500, 30) - 1.5)
    return lambda grid: after_gelu if grid in GELU else probs


def session_of(x, spec):
    observer = make_observer(spec, -1)
    for batch in x:
        observer(batch)
    return CalibrationSession({POINT: spec}, {POINT: read_stats(observer)})


def chosen(calibrator, x, spec):
    return calibrator.calibrate(session_of(x, spec), ignore)[POINT]


def error(x, q, spec):
    return (grid_of(q, spec).round(x) - x).double().square().mean().item()


@pytest.mark.parametrize("grid", SHAPES)
@pytest.mark.parametrize("bits", [3, 4, 8])
def test_full_range_clips_nothing(data, grid, bits):
    x, spec = data(grid), QuantSpec(bits, grid=grid)
    values = codebook(chosen(MinMax(), x, spec), spec).values
    assert values[-1].item() == pytest.approx(x.max().item(), rel=1e-5)


@pytest.mark.parametrize("grid", SHAPES)
def test_percentile_and_others_choose_the_upper_end(data, grid):
    x, spec = data(grid), QuantSpec(4, grid=grid)
    seen = session_of(x, spec).stats(POINT)
    ends = {
        Percentile(99.99): quantile(seen.histogram, 0.9999).item(),
        Halved(): x.max().item() / 2,
    }
    for calibrator, end in ends.items():
        values = codebook(chosen(calibrator, x, spec), spec).values
        assert values[-1].item() == pytest.approx(end, rel=1e-5)


@pytest.mark.parametrize("grid", SHAPES)
@pytest.mark.parametrize("bits", [3, 4, 8])
def test_least_error_is_never_much_above_that_of_the_full_range(data, grid, bits):
    x, spec = data(grid), QuantSpec(bits, grid=grid)
    full, least = (error(x, chosen(c, x, spec), spec) for c in (MinMax(), Mse()))
    assert least <= full * 1.02  # the search sees a histogram


@pytest.mark.parametrize("grid", [GridKind.LOG, GridKind.LOG_SQRT2, GridKind.TWIN, *GELU])
def test_at_few_bits_a_grid_that_is_made_for_it_loses_less_than_a_uniform_one(data, grid):
    x, spec, uniform = data(grid), QuantSpec(4, grid=grid), QuantSpec(4)
    found = error(x, chosen(Mse(), x, spec), spec)
    assert found < 0.9 * error(x, chosen(Mse(), x, uniform), uniform)


def test_more_bits_lose_less(data):
    for grid in (GridKind.LOG, GridKind.TWIN, *GELU):
        x = data(grid)
        specs = [QuantSpec(bits, grid=grid) for bits in (3, 4, 6, 8)]
        errors = [error(x, chosen(Mse(), x, spec), spec) for spec in specs]
        assert errors == sorted(errors, reverse=True)


def test_the_released_search_refuses_what_it_does_not_know(data):
    spec = QuantSpec(4, grid=GridKind.LOG2)
    with pytest.raises(CalibrationError) as caught:
        chosen(Entropy(mode="released"), data(spec.grid), spec)
    assert str(caught.value) == (
        "mode = 'released' knows uniform grids only, and a:probs has grid = 'log2'. "
        "Use mode = 'paper', or grid = 'uniform'."
    )


def test_the_error_is_that_of_the_histogram_s_values(data):
    """One value only: the grid's largest value meets it."""
    x = torch.full((1, 10, 3), 0.25)
    x[0, 0, 0] = 0.0
    spec = QuantSpec(4, grid=GridKind.LOG2)
    assert error(x, chosen(MinMax(), x, spec), spec) == 0.0
