# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""AdaRound on small problems: brute force, what it may choose, and what it refuses."""

from itertools import product

import pytest
import torch

from calibrators.rounding.adaround import FREE, SHARPNESS, AdaRound, _steepness, raised
from calibrators.rounding.gptq import Gptq
from calibrators.rounding.solver import choose_scale, damped
from qkit.calibration.registry import ROUNDINGS
from qkit.errors import RegistryError
from qkit.numerics import dequantize, quantize
from qkit.spec import Granularity, QuantSpec

SPEC = QuantSpec(4, symmetric=True, granularity=Granularity.CHANNEL)


def problem(seed, out=4, size=6):
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(out, size, generator=generator)
    x = torch.randn(3 * size, size, generator=generator)
    x = x + 2 * x.roll(1, 1)  # neighbours are alike: the nearest integers are not the best
    return weight, damped(x.T @ x / len(x), 0.01)


def errors(weight, levels, moment, q):
    off = dequantize(levels, q, SPEC, 0) - weight
    return ((off @ moment) * off).sum(1)


def best_of_all(weight, moment, q):
    """Least error of every row over all ways to round each value up or down."""
    below = (weight / q.scale[:, None]).floor()
    found = torch.full((len(weight),), torch.inf)
    for ups in product((0.0, 1.0), repeat=weight.shape[1]):
        levels = (below + torch.tensor(ups)).clamp(SPEC.quant_min, SPEC.quant_max)
        found = torch.minimum(found, errors(weight, levels.to(torch.int16), moment, q))
    return found


@pytest.mark.parametrize("seed", range(4))
def test_it_comes_near_the_best_of_all_ways_up_and_down(seed):
    weight, moment = problem(seed)
    q = choose_scale(weight, moment, SPEC)
    levels = AdaRound().choose(weight, moment, q, SPEC)
    least = float(best_of_all(weight, moment, q).sum())
    nearest = float(errors(weight, quantize(weight, q, SPEC, 0), moment, q).sum())
    own = float(errors(weight, levels, moment, q).sum())
    assert least <= own * (1 + 1e-5)
    assert own - least < 0.5 * (nearest - least)


@pytest.mark.parametrize("seed", range(3))
def test_on_a_larger_weight_it_ends_below_gptq(seed):
    weight, moment = problem(seed, out=16, size=48)
    q = choose_scale(weight, moment, SPEC)
    own, other = (
        errors(weight, *_fitted(method, weight, moment, q)).sum() for method in (AdaRound(), Gptq())
    )
    assert float(own) < float(other)


def _fitted(method, weight, moment, q):
    levels, scale = method.fit(weight, moment, q, SPEC)
    return levels, moment, scale


@pytest.mark.parametrize("symmetric", [True, False])
def test_every_value_goes_up_or_down_by_less_than_a_level(symmetric):
    spec = QuantSpec(4, symmetric, Granularity.CHANNEL)
    weight, moment = problem(9, out=6, size=10)
    q = choose_scale(weight, moment, spec)
    levels = AdaRound(iterations=50).choose(weight, moment, q, spec)
    assert levels.dtype == torch.int16
    assert spec.quant_min <= int(levels.min()) <= int(levels.max()) <= spec.quant_max
    inside = (levels > spec.quant_min) & (levels < spec.quant_max)
    off = (dequantize(levels, q, spec, 0) - weight).abs() / q.scale[:, None]
    assert bool((off[inside] < 1 + 1e-4).all())


def test_a_weight_that_lies_on_its_grid_stays():
    _, moment = problem(3)
    weight = torch.randint(-7, 8, (4, 6), generator=torch.Generator().manual_seed(0)) * 0.5
    q = choose_scale(weight, moment, SPEC)._replace(scale=torch.full((4,), 0.5))
    levels = AdaRound(iterations=100).choose(weight, moment, q, SPEC)
    assert torch.equal(dequantize(levels, q, SPEC, 0), weight)


def test_a_stretched_sigmoid_reaches_both_ends():
    assert raised(torch.tensor([-9.0, 0.0, 9.0])).tolist() == [0.0, 0.5, 1.0]


@pytest.mark.parametrize("name", ["iterations", "rate", "pull"])
def test_options_that_make_no_sense_are_refused(name):
    with pytest.raises(RegistryError, match=rf"{name} = 0 is not possible. Use a positive number"):
        ROUNDINGS.create("adaround", {name: 0})


def test_slopes_are_those_of_autograd():
    moved = torch.linspace(-4, 4, 33).requires_grad_()
    up = raised(moved)
    (slope,) = torch.autograd.grad(up.sum(), moved)
    torch.testing.assert_close(_steepness(moved.detach()), slope)
    method, done = AdaRound(pull=3.0), 0.6
    first, last = SHARPNESS
    sharpness = first + (last - first) * (done - FREE) / (1 - FREE)
    inside = up.detach().requires_grad_()
    (3.0 * (2 * inside - 1).abs().pow(sharpness).mean()).backward()
    torch.testing.assert_close(method._decided(inside.detach(), done), inside.grad)
    assert method._decided(up, 0.1) == 0.0
