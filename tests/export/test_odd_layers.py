# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Layers that no backend multiplies in integers are exported as they are simulated, and named."""

import pytest

import qkit
from qkit.recipe import Recipe, SchemeRule
from qkit.spec import Granularity, GridKind, QuantSpec, Scheme

pytestmark = pytest.mark.backends

WEIGHT = QuantSpec(8, symmetric=True, granularity=Granularity.CHANNEL)
EIGHT = QuantSpec(8)
LOG = QuantSpec(4, grid=GridKind.LOG_SQRT2)
ODD = {
    "*resblocks.0.mlp.c_fc": Scheme(WEIGHT, QuantSpec(8, granularity=Granularity.CHANNEL)),
    "*resblocks.1.mlp.c_proj": Scheme(WEIGHT, QuantSpec(4, grid=GridKind.TWIN_SIGNED)),
    "*resblocks.0.mlp.c_proj": Scheme(WEIGHT, None),
    "*resblocks.1.mlp.c_fc": Scheme(None, EIGHT),
    "*resblocks.0.attn.out_proj": Scheme(),
    "*resblocks.1.attn.sdpa": Scheme(attention=EIGHT, probs=LOG),
}
REASONS = {
    "resblocks.0.mlp.c_fc": "an input with one scale a channel",
    "resblocks.1.mlp.c_proj": "an input on grid = 'twin-signed'",
    "resblocks.0.mlp.c_proj": "its input stays in float",
    "resblocks.1.mlp.c_fc": "its weight stays in float",
    "resblocks.0.attn.out_proj": "the recipe leaves it in float",
    "resblocks.1.attn.sdpa": "its operands have grids or scales",
}


def test_they_compute_the_same_and_are_named(save_run, tmp_path):
    rules = [SchemeRule(match, scheme=scheme) for match, scheme in ODD.items()]
    recipe = Recipe((*rules, SchemeRule("*", scheme=Scheme(WEIGHT, EIGHT, EIGHT))))
    few = qkit.Overrides(samples=4)
    path = save_run(bits=None, method=None, recipe=recipe, overrides=few)
    report = qkit.export(path, "onnx", tmp_path / "out", samples=5)
    assert report.passed
    (ort,) = [proof for proof in report.proofs if proof.backend.startswith("ONNX Runtime")]
    # off by more, a backend would round inputs that are to stay in float
    assert [tower.mean_cosine for tower in ort.towers] == pytest.approx([1.0, 1.0], abs=1e-6)
    named = {name.removeprefix("visual.").removeprefix("transformer.") for name in report.in_float}
    assert named == set(REASONS)
    for name, reason in report.in_float.items():
        assert reason.startswith(REASONS[name[name.index("resblocks") :]])
