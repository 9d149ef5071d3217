# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Grids that are not uniform within the joint search: as the tensor alone would have them."""

import pytest
import torch

from calibrators.entropy import Entropy
from calibrators.mse import Mse
from qkit.calibration.install import install
from qkit.calibration.protocol import affines_of
from qkit.progress import ignore
from qkit.recipe import parse_recipe

QUICK = {"samples": 4, "percentiles": (1.0, 0.98), "factors": (), "rows": 64}
LEARNING = {"optimize_encoder": True, "pairs": 4, "epochs": 1, "batch": 2}
RECIPE = {
    "rule": [
        {"match": "token_embedding", "ignore": True},
        {"match": "*.mlp.c_proj", "input": {"grid": "shifted-log"}},
        {"match": "*.mlp.c_fc", "input": {"grid": "twin-signed"}},
        {"probs": {"grid": "log"}},
    ]
}


@pytest.mark.parametrize("options", [{}, LEARNING], ids=["search", "learning"])
def test_they_keep_their_own_least_error_while_all_else_is_searched(open_bench, student, options):
    session = open_bench(parse_recipe(RECIPE), attn_bits=4)
    found = Entropy(**QUICK | options).calibrate(session, ignore)
    assert found.keys() == session.points.keys()
    alone = Mse().calibrate(session, ignore)
    odd = [point for point, spec in session.points.items() if not spec.uniform]
    assert {point.role for point in odd} == {"probs", "input"}
    assert all(all(map(torch.equal, found[point], alone[point])) for point in odd)
    others = session.points.keys() - set(odd)
    assert any(not torch.equal(found[point].scale, alone[point].scale) for point in others)
    install(student.model, found, affines_of(found))
    assert torch.isfinite(student.model.encode_image(torch.randn(2, 3, 32, 32))).all()
