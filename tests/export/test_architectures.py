# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Every architecture that qkit takes apart is exported, or says which layers stay in float."""

from collections import Counter

import pytest
import torch

import qkit
from qkit.clip.rebuild import rebuild
from tests.graph.conftest import MODELS, stir

pytestmark = pytest.mark.backends

EXPECTED = {"vit": {}, "resnet": {}, "pooler": {}, "custom": {}, "coca": {}, "timm": {}}


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_features_and_what_stays_in_float(name, shapes, tmp_path):
    torch.manual_seed(0)
    clip = rebuild(name, {"model_cfg": {"embed_dim": 32, **MODELS[name]}})
    stir(clip.model)
    data, few = f"captions:{shapes}/captions.csv", qkit.Overrides(samples=4)
    qkit.calibrate(clip, data, bits=8, method="minmax", overrides=few).save(tmp_path / "run")
    report = qkit.export(tmp_path / "run", "onnx", tmp_path / "out", samples=5)
    assert [t.mean_cosine for p in report.proofs for t in p.towers] == pytest.approx(
        [1.0] * 4, abs=1e-3
    )
    assert Counter(report.in_float.values()) == EXPECTED[name]
