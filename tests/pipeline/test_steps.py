# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""The steps that a recipe may add: what they are refused for, and what they bring."""

from dataclasses import dataclass, replace

import pytest
import torch

import qkit
from calibrators.minmax import MinMax
from calibrators.rounding.gptq import Gptq
from qkit.calibration.protocol import Annotated
from qkit.calibration.registry import TRANSFORMS
from qkit.errors import CalibrationError, RecipeError, RegistryError
from qkit.graph.layers import list_points
from qkit.pipeline.calibrate import label
from qkit.pipeline.inputs import open_calibration
from qkit.pipeline.steps import Steps
from qkit.pipeline.stopwatch import Stopwatch
from qkit.pipeline.student import give_points, prepare
from qkit.progress import Silent
from qkit.recipe import CalibratorConfig, Recipe, SchemeRule, load_recipe
from qkit.recipe.schema import INPUT, WEIGHT, StepConfig
from qkit.spec import Affine, Granularity, GridKind, PointId, QuantSpec, Scheme

TRANSFORM = StepConfig("best", {"samples": 4, "rows": 128})
ROUNDING = StepConfig("gptq", {"samples": 8, "sweeps": 1})
SOME = r"re:(visual\.conv1|.*resblocks\.0\.mlp\..*)"
TOKEN, CHANNEL = (QuantSpec(4, granularity=g) for g in (Granularity.TOKEN, Granularity.CHANNEL))
SHIFTED = QuantSpec(4, grid=GridKind.SHIFTED_LOG)
W4 = replace(WEIGHT, bits=4)
FEW = Recipe(
    rules=(SchemeRule(SOME, scheme=Scheme(W4, TOKEN)),),  # all else stays in float
    calibrator=CalibratorConfig("minmax"),
    samples=8,
)
LEARNED = PointId("visual.transformer.resblocks.0.mlp.c_fc", "input")


@dataclass(frozen=True)
class Learned:
    """Scales, and an affine of one LayerNorm."""

    width: int = 64

    def calibrate(self, session, advance):
        chosen = MinMax().calibrate(session, advance)
        affine = Affine(torch.full((self.width,), 1.1), torch.zeros(self.width))
        return Annotated(chosen, (), {}, {LEARNED: affine})


def recipe_of(*schemes, **steps):
    return Recipe(rules=tuple(SchemeRule(scheme=scheme) for scheme in schemes), **steps)


@pytest.fixture(scope="module")
def data(shapes):
    return f"captions:{shapes}/captions.csv"


@pytest.fixture(scope="module")
def calibrated(tiny_folder, data):
    """Makes the tiny model with some steps once: 4 bits, a scale for each token."""
    made = {}

    def calibrated(*names):
        if names not in made:
            steps = {"transform": TRANSFORM, "rounding": ROUNDING}
            recipe = replace(FEW, **{name: steps[name] for name in names})
            made[names] = qkit.calibrate(f"local-dir:{tiny_folder}", data, recipe=recipe)
        return made[names]

    return calibrated


@pytest.mark.parametrize(
    "schemes",
    [
        (Scheme(WEIGHT),),
        (Scheme(WEIGHT, CHANNEL),),
        (Scheme(WEIGHT, SHIFTED),),
        (Scheme(), Scheme(WEIGHT, CHANNEL)),
        (Scheme(attention=INPUT),),
    ],
)
def test_a_transform_needs_an_input_whose_channels_can_be_mixed(schemes):
    fact = (
        r"^\[transform\] 'best' has no input to change: the rules leave all in float, or give "
        r"channels a scale or inputs a grid of their own\. "
        r"Quantize inputs per token or per tensor\.$"
    )
    with pytest.raises(RecipeError, match=fact):
        Steps.of(recipe_of(*schemes, transform=TRANSFORM))


@pytest.mark.parametrize("schemes", [(Scheme(),), (Scheme(), Scheme(None, TOKEN, INPUT))])
def test_a_rounding_needs_a_weight(schemes):
    fact = (
        r"^\[rounding\] 'gptq' has no weight to round: the rules leave all in float\. "
        r"Quantize weights, or drop \[rounding\]\.$"
    )
    with pytest.raises(RecipeError, match=fact):
        Steps.of(recipe_of(*schemes, rounding=ROUNDING))


def test_one_rule_that_gives_them_something_to_do_is_enough():
    schemes = (Scheme(), Scheme(WEIGHT, CHANNEL), Scheme(input=TOKEN))
    steps = Steps.of(recipe_of(*schemes, transform=TRANSFORM, rounding=ROUNDING))
    assert steps.transform == TRANSFORMS.create("best", TRANSFORM.options)
    assert steps.rounding == Gptq(samples=8, sweeps=1)


def test_left_out_they_are_nobody_s_and_ask_for_nothing():
    steps = Steps.of(recipe_of(Scheme()))
    assert steps.transform is steps.rounding is steps.reconstruction is None


@pytest.mark.parametrize(
    ("changes", "fact"),
    [
        ({"transform": StepConfig("gptq")}, "unknown transform 'gptq'"),
        ({"rounding": StepConfig("best")}, "unknown rounding 'best'"),
        ({"calibrator": CalibratorConfig("gptq")}, "unknown method 'gptq'"),
        ({"rounding": StepConfig("gptq", {"sweeps": -1})}, "sweeps = -1"),
    ],
)
def test_every_name_is_looked_up_before_any_work(changes, fact):
    with pytest.raises(RegistryError, match=fact):
        qkit.calibrate("no such model", "no such data", recipe=replace(FEW, **changes))


def off(result, tiny, pixels, tokens):
    """Squared error of both towers' features, relative to the float features."""
    with torch.no_grad():
        found, known = (
            [model.encode_image(pixels), model.encode_text(tokens)]
            for model in (result.model, tiny.model)
        )
    pairs = zip(found, known, strict=True)
    return [float((a - b).square().sum() / b.square().sum()) for a, b in pairs]


@pytest.mark.parametrize("names", [("transform",), ("rounding",), ("transform", "rounding")])
def test_with_them_features_are_nearer_to_float(calibrated, tiny, pixels, tokens, names):
    plain, found = (off(calibrated(*n), tiny, pixels, tokens) for n in ((), names))
    assert sum(found) < 0.8 * sum(plain)


def test_each_step_leaves_what_it_is_for(calibrated):
    for names in ((), ("transform",), ("rounding",), ("transform", "rounding")):
        points = list_points(calibrated(*names).model)
        weights = [p for p in points if p.point.role == "weight"]
        assert {p.levels is not None for p in weights} == {"rounding" in names}
        assert any(p.transform is not None for p in points) == ("transform" in names)


def test_they_are_timed_and_named(calibrated):
    report = calibrated("transform", "rounding").report
    assert list(report.timing)[1:5] == [
        "choose coordinates (best)",
        "observe calibration data",
        "choose scales (minmax)",
        "round weights (gptq)",
    ]
    assert report.label == "W4A4 attnfloat per token, best, minmax, gptq"
    assert label(FEW) == "W4A4 attnfloat per token, minmax"
    assert label(load_recipe("w4a8-best")) == (
        "W4A8 attn8 probs8 per token normal, best, mse, adaround, blocks"
    )


UNDONE = r"^\[rounding\] 'gptq' would undo what the calibrator learned of LayerNorms\. Drop \[rou"


def test_a_calibrator_that_says_so_is_refused_before_any_work():
    learning = CalibratorConfig("entropy", {"optimize_encoder": True})
    recipe = replace(FEW, calibrator=learning)
    Steps.of(recipe)
    with pytest.raises(RecipeError, match=UNDONE):
        Steps.of(replace(recipe, rounding=ROUNDING))


def test_what_was_learned_of_layer_norms_would_be_undone(tiny, data):
    recipe = replace(FEW, rounding=ROUNDING)
    student = prepare(tiny)
    give_points(student, recipe)
    samples = open_calibration(data, 2, 0, skip_bad=False)
    steps = Steps(None, Learned(), Gptq(samples=2), None, recipe)
    with pytest.raises(RecipeError, match=UNDONE):
        steps.run(student, samples, Stopwatch(Silent()))
    replace(steps, rounding=None, recipe=FEW).run(student, samples, Stopwatch(Silent()))


@pytest.mark.parametrize("name", ["transform", "rounding"])
def test_a_plug_in_that_answers_for_points_that_are_not_there(tiny, data, name):
    class Lost:
        def choose(self, bench, advance):
            return {PointId("nowhere", "input"): object()}

        def round(self, bench, advance):
            found = Gptq(samples=2).round(bench, advance)
            return {PointId("nowhere", "weight"): weight for weight in found.values()}

    recipe = replace(FEW, **{name: StepConfig("lost")})
    student = prepare(tiny)
    give_points(student, recipe)
    steps = replace(Steps.of(FEW), recipe=recipe, **{name: Lost()})
    samples = open_calibration(data, 2, 0, skip_bad=False)
    with pytest.raises(CalibrationError, match="nowhere"):
        steps.run(student, samples, Stopwatch(Silent()))
