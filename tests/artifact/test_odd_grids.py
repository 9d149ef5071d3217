# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Run folders of models with grids that are not uniform."""

import pytest
import torch

import qkit
from qkit.artifact.tensors import from_tensors, to_tensors
from qkit.errors import ArtifactError
from qkit.graph.layers import list_points
from qkit.grids.shapes import SHAPES
from qkit.pipeline.student import give_points, prepare
from qkit.recipe import parse_recipe
from qkit.spec import GridKind

PAIRS = [("log2", "twin-signed"), ("log-sqrt2", "shifted-log"), ("log", "shifted-log")]
PAIRS += [("twin", "twin-signed")]
PARAMETER = "visual.transformer.resblocks.0.attn.sdpa:probs.zero_point"


@pytest.fixture
def result(tiny_folder, shapes):
    """Calibrates the tiny model with a grid for probabilities and one after the GELUs."""

    def run(probs, inputs):
        rules = [{"match": "*.mlp.c_proj", "input": {"bits": 4, "grid": inputs}}, {}]
        rules[1]["probs"] = {"bits": 4, "grid": probs}
        return qkit.calibrate(
            f"local-dir:{tiny_folder}",
            f"captions:{shapes}/captions.csv",
            recipe=parse_recipe({"rule": rules}),
            overrides=qkit.Overrides(samples=4),
        )

    return run


@pytest.mark.parametrize(("probs", "inputs"), PAIRS)
def test_loaded_again_both_towers_are_the_same_bit_for_bit(
    result, tmp_path, pixels, tokens, probs, inputs
):
    made = result(probs, inputs)
    made.save(tmp_path / "run")
    loaded = qkit.load(tmp_path / "run").model
    with torch.no_grad():
        assert torch.equal(loaded.encode_image(pixels), made.model.encode_image(pixels))
        assert torch.equal(loaded.encode_text(tokens), made.model.encode_text(tokens))
    kinds = {point.spec.grid for point in list_points(loaded)}
    assert kinds == {GridKind.UNIFORM, GridKind(probs), GridKind(inputs)}
    assert "probs4" in made.report.label
    assert probs in made.report.label


def test_a_scale_and_a_parameter_are_stored(result):
    made = result("log", "shifted-log")
    tensors = to_tensors(made.model, made.student.layers)
    odd = [point for point in list_points(made.model) if not point.spec.uniform]
    assert len(odd) == 8  # two blocks a tower, an attention core and an MLP each
    for point in odd:
        scale, parameter = (tensors[f"{point.point}.{k}"] for k in ("scale", "zero_point"))
        assert (scale.shape, parameter.dtype) == ((), torch.int32)
        assert int(parameter) in SHAPES[point.spec.grid].parameters


def test_a_parameter_out_of_place_is_refused(result, tiny):
    made = result("twin", "twin-signed")
    tensors = to_tensors(made.model, made.student.layers)
    tensors[PARAMETER] = torch.tensor(99, dtype=torch.int32)
    blank = prepare(tiny, copy=False)
    give_points(blank, made.recipe)
    with pytest.raises(ArtifactError, match="zero point 99"):
        from_tensors(blank.model, blank.layers, tensors)
