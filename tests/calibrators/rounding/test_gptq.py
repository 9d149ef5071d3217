# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""GPTQ on the tiny model: what it fixes, and what that does to the outputs of layers."""

from types import SimpleNamespace

import pytest
import torch

from calibrators.mse import Mse
from calibrators.rounding.arrived import moments
from calibrators.rounding.gptq import Gptq
from qkit.calibration.bench import Bench
from qkit.calibration.install import install
from qkit.calibration.observe import observe, set_mode
from qkit.calibration.registry import ROUNDINGS
from qkit.calibration.running import recorded
from qkit.calibration.session import open_session
from qkit.clip.stages import list_stages
from qkit.errors import RegistryError
from qkit.graph.layers import list_points
from qkit.nn.tensor_quantizer import Mode
from qkit.numerics import dequantize, quantize
from qkit.pipeline.student import give_points
from qkit.recipe import Recipe, SchemeRule, override
from qkit.recipe.overrides import Overrides
from qkit.spec import Granularity, QuantSpec, Scheme

SOME = r"re:(visual\.conv1|text_projection|.*resblocks\.0\..*)"
RULES = Recipe(rules=(SchemeRule(SOME),))  # all else stays in float
TOKEN = {"bits": 4, "act_granularity": "token"}
QUICK = Gptq(samples=8, sweeps=1)


def silent(done, **figures):
    """Swallows progress."""


@pytest.fixture
def calibrated(student, samples):
    """The tiny model with the least-error scales of each tensor, and its parts on the bench."""

    def calibrated(recipe=RULES, **flags):
        give_points(student, override(recipe, Overrides(**(flags or TOKEN))))
        observe(student.model, samples, silent)
        chosen = Mse().calibrate(open_session(student.model, student.layers), silent)
        install(student.model, chosen)
        stages = {"half": list_stages(student.blocks, student.layers, halves=True)}
        bench = Bench(student.model, student.layers, stages, lambda n: samples[: (n + 1) // 2])
        return SimpleNamespace(bench=bench, chosen=chosen, layers=student.layers)

    return calibrated


def weighted(layers):
    """Layers with a weight and its point."""
    return [layer for layer in layers if layer.weight_quantizer is not None]


def output_errors(layer, arrived, levels):
    """Squared error of the outputs for rounded inputs, each by its energy."""
    point = layer.weight_quantizer
    off = dequantize(levels.flatten(1), point.qparams, point.spec, 0) - layer.weight_rows
    rows = torch.cat([layer.rows(layer.rounded(x)) for x in arrived])
    return float(((rows @ off.T).square().sum(1) / rows.square().sum(1)).sum())


@pytest.mark.parametrize("flags", [TOKEN, {"bits": 4}, {"bits": 3, "act_granularity": "channel"}])
def test_every_weight_gets_integers_of_its_grid(calibrated, flags):
    made = calibrated(**flags)
    found = QUICK.round(made.bench, silent)
    layers = weighted(made.layers)
    assert set(found) == {layer.weight_quantizer.point for layer in layers}
    for layer in layers:
        point = layer.weight_quantizer
        levels = found[point.point].rounding.levels
        assert levels.shape == layer.weight_shape
        assert point.spec.quant_min <= int(levels.min()) <= int(levels.max())
        assert int(levels.max()) <= point.spec.quant_max
        assert torch.equal(point.levels, levels)
        assert torch.equal(point.qparams.scale, found[point.point].qparams.scale)


def test_outputs_of_all_layers_are_nearer_to_float_than_with_nearest_integers(
    calibrated, student, samples
):
    made = calibrated()
    found = QUICK.round(made.bench, silent)
    layers = weighted(made.layers)
    set_mode(student.model, Mode.QUANTIZE)
    with recorded(layers) as inputs, torch.no_grad():
        for batch in samples:
            student.model.encode_image(batch.images)
            student.model.encode_text(batch.texts)
    for layer in layers:
        point, arrived = layer.weight_quantizer, inputs[layer.name]
        own = output_errors(layer, arrived, found[point.point].rounding.levels)
        point.set_qparams(made.chosen[point.point])
        nearest = quantize(layer.weight_rows, point.qparams, point.spec, 0)
        assert own < output_errors(layer, arrived, nearest), layer.name


def test_once_more_it_starts_from_the_float_weights_and_gives_the_same(calibrated):
    made = calibrated()
    first, again = (QUICK.round(made.bench, silent) for _ in range(2))
    assert list(first) == list(again)
    for point, weight in first.items():
        assert torch.equal(weight.rounding.levels, again[point].rounding.levels)
        assert torch.equal(weight.qparams.scale, again[point].qparams.scale)


@pytest.mark.parametrize("flags", [TOKEN, {"bits": 4}])
def test_progress_is_told_once_for_all_readers_of_an_input(calibrated, flags):
    made, told = calibrated(**flags), []
    QUICK.round(made.bench, told.append)
    readers = [la for la in made.layers if la.kind not in ("attention", "embedding")]
    inputs = {next(iter(la.input_quantizers), la.name) for la in readers}
    assert told == [1] * len(inputs)
    assert len(inputs) == len(readers) - 4  # a block's queries, keys and values share theirs


def test_weights_alone_are_rounded_too(calibrated):
    weight = QuantSpec(4, symmetric=True, granularity=Granularity.CHANNEL)
    rule = SchemeRule(SOME, scheme=Scheme(weight))
    made = calibrated(Recipe((rule,)), bits=4)
    found = QUICK.round(made.bench, silent)
    assert set(found) == {la.weight_quantizer.point for la in weighted(made.layers)}
    assert all(not la.input_quantizers for la in weighted(made.layers))


def test_a_layer_whose_weight_stays_in_float_is_passed_over(calibrated):
    name = "visual.transformer.resblocks.0.mlp.c_fc"
    kept = SchemeRule(name, scheme=Scheme(input=QuantSpec(8)))
    made = calibrated(Recipe((kept, *RULES.rules)))
    found = QUICK.round(made.bench, silent)
    assert found
    assert name not in {point.module for point in found}


@pytest.mark.parametrize("sweeps", [0, 2])
def test_without_a_search_the_calibrator_s_scales_stay(calibrated, sweeps):
    made = calibrated()
    found = Gptq(samples=8, search=False, sweeps=sweeps).round(made.bench, silent)
    for point, weight in found.items():
        assert torch.equal(weight.qparams.scale, made.chosen[point].scale)
        assert torch.equal(weight.qparams.zero_point, made.chosen[point].zero_point)
    searched = QUICK.round(made.bench, silent)
    assert any(not torch.equal(searched[p].qparams.scale, made.chosen[p].scale) for p in found)


def test_the_points_of_inputs_keep_their_scales(calibrated, student):
    made = calibrated(bits=4)
    QUICK.round(made.bench, silent)
    inputs = [p for p in list_points(student.model) if p.point.role != "weight"]
    assert inputs
    assert all(torch.equal(p.qparams.scale, made.chosen[p.point].scale) for p in inputs)


def test_a_massive_row_counts_no_more_than_any_other(calibrated, normal):
    made = calibrated()
    layer = next(la for la in made.layers if la.name.endswith("mlp.c_fc"))
    x = normal(2, 3, layer.reads)
    larger = x.clone()
    larger[0, 0] *= 1024  # per token its integers stay
    found = moments(layer, [larger]).own
    torch.testing.assert_close(found, moments(layer, [x[:1], x[1:]]).own)
    assert float(found.trace()) == pytest.approx(6)  # every row has length 1


@pytest.mark.parametrize(
    ("options", "fact"),
    [
        ({"samples": 0}, "samples = 0 is not possible. Use 1 or more"),
        ({"sweeps": -1}, "sweeps = -1 is not possible. Use 0 or more"),
        ({"damping": 0}, "damping = 0 is not possible. Use a positive number"),
        ({"damping": -0.1}, "damping = -0.1 is not possible"),
        ({"damping": float("nan")}, "damping = nan is not possible"),
        ({"samples": "x"}, "'str'"),
    ],
)
def test_options_that_cannot_be(options, fact):
    with pytest.raises(RegistryError, match=rf"^rounding 'gptq' refuses its options: .*{fact}"):
        ROUNDINGS.create("gptq", options)
