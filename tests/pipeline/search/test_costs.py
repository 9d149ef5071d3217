# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Costs against what they stand for: files, weights and operator counts."""

import numpy as np
import pytest

import qkit
from qkit.allocation.choices import Bits
from qkit.artifact.folder import MODEL, read_run
from qkit.errors import SearchError
from qkit.pipeline.search.costs import (
    bitops_cost,
    bits_cost,
    latency_cost,
    model_costs,
    size_cost,
    stored_bytes,
)
from qkit.pipeline.search.units import list_units
from qkit.pipeline.student import give_points
from qkit.pipeline.teacher import load_teacher
from qkit.recipe import Recipe, SchemeRule
from qkit.spec import QuantSpec, Scheme

BOTH = (Bits(4, 4), Bits(8, 4))


@pytest.mark.parametrize("recipe", ["w4a4-best-ptq", "w8a8-percentile"])
def test_size_is_that_of_the_file(save_run, recipe):
    path = save_run(recipe=recipe, bits=None, method=None)
    student = load_teacher(read_run(path))
    cost = size_cost(list_units(student), [stored_bytes(student)])
    size = (path / MODEL).stat().st_size
    assert size <= cost.of([0] * len(cost.parts)) <= 1.01 * size


def test_a_unit_takes_as_many_bytes_as_its_bits(student):
    units, four = list_units(student), stored_bytes(student)
    table = next(i for i, unit in enumerate(units) if unit.name == "token_embedding")
    give_points(student, Recipe())
    eight = dict(four) | {"token_embedding": four["token_embedding"] + units[table].weights // 2}
    parts = size_cost(units, [four, eight]).parts
    changed = np.flatnonzero(parts[:, 0] != parts[:, 1])
    assert list(changed) == [table]


def test_bits_are_the_mean_over_weights(student):
    units = list_units(student)
    cost = bits_cost(units, BOTH)
    assert cost.of([0] * len(units)) == pytest.approx(4.0)
    assert cost.of([1] * len(units)) == pytest.approx(8.0)
    assert model_costs(student)["bits"] == pytest.approx(4.0)
    most = max(range(len(units)), key=lambda i: units[i].weights)
    chosen = [int(i == most) for i in range(len(units))]
    assert cost.of(chosen) > 7  # the token table is nearly all of the tiny model


def test_bit_operations_are_those_of_the_model_as_it_is(student):
    units = list_units(student)
    cost = bitops_cost(units, BOTH, student)
    uniform = cost.of([0] * len(units))
    assert uniform == pytest.approx(model_costs(student)["bitops"])
    products = sum(unit.macs for unit in units)
    assert cost.of([1] * len(units)) == pytest.approx(uniform + products * (8 - 4) * 4)


def test_what_stays_in_float_counts_as_32_bits(student):
    weights = Scheme(QuantSpec(4, symmetric=True))
    give_points(student, Recipe(rules=(SchemeRule("*", scheme=weights),)))
    units = list_units(student)
    cost = bitops_cost(units, BOTH, student)
    assert cost.of([0] * len(units)) == pytest.approx(model_costs(student)["bitops"])
    macs = {unit.name: unit.macs for unit in units}
    at = next(i for i, unit in enumerate(units) if unit.name == "visual.conv1")
    assert list(cost.parts[at]) == [macs["visual.conv1"] * 4 * 32, macs["visual.conv1"] * 8 * 32]


def test_latency_is_macs_times_what_was_measured(student):
    units = list_units(student)
    times = {"image": {Bits(4, 4): 3.0, Bits(8, 4): 5.0}, "text": {Bits(4, 4): 2.0}}
    with pytest.raises(SearchError, match="no time of 8/4 in the text tower"):
        latency_cost(units, BOTH, times)
    cost = latency_cost(units, BOTH[:1], times)
    image, text = (sum(u.macs for u in units if u.tower == t) for t in ("image", "text"))
    assert cost.of([0] * len(units)) == pytest.approx((3 * image + 2 * text) * 1e-15)


def test_latency_of_a_float_operand_is_not_guessed(student):
    weights = Scheme(QuantSpec(4, symmetric=True))
    give_points(student, Recipe(rules=(SchemeRule("*", scheme=weights),)))
    times = {"image": {Bits(4, 4): 3.0}, "text": {Bits(4, 4): 3.0}}
    with pytest.raises(SearchError, match="keeps an operand in float, for which --times has no"):
        latency_cost(list_units(student), BOTH[:1], times)


def test_a_run_of_activations_only_has_no_mean_bits(save_run):
    path = save_run(recipe=Recipe(rules=(SchemeRule(scheme=Scheme(input=QuantSpec(4))),)))
    with pytest.raises(SearchError, match="quantizes no weight, so budget bits=5 has none"):
        qkit.search(path, "bits=5", choices="4/4", samples=3)
