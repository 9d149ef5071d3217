# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Every architecture that qkit takes apart runs in integers, or says which layers do not."""

from collections import Counter

import pytest
import torch
import torch.nn.functional as F

import qkit
from qkit.clip.rebuild import rebuild
from qkit.runtime.kernels import missing_kernel
from tests.graph.conftest import MODELS, stir
from tests.runtime.conftest import int8

SIMULATED, OVERLAPS = "its two products are simulated", "windows of the convolution overlap"
EXPECTED = {  # layers by why they compute in float
    "vit": {SIMULATED: 4},
    "resnet": {SIMULATED: 3, OVERLAPS: 7},
    "pooler": {SIMULATED: 5},
    "custom": {SIMULATED: 4},
    "coca": {SIMULATED: 5},
    "timm": {SIMULATED: 2},
}


@pytest.mark.parametrize("name", MODELS)
def test_features_and_fallbacks(name, shapes, tmp_path):
    if (missing := missing_kernel()) is not None:
        pytest.skip(missing)
    torch.manual_seed(0)
    clip = rebuild(name, {"model_cfg": {"embed_dim": 32, **MODELS[name]}})
    stir(clip.model)
    data, few = f"captions:{shapes}/captions.csv", qkit.Overrides(samples=4)
    qkit.calibrate(clip, data, bits=8, method="minmax", overrides=few).save(tmp_path / "run")
    simulated, integer = qkit.load(tmp_path / "run"), int8(tmp_path / "run")
    size = clip.config["preprocess_cfg"]["size"]
    side = size if isinstance(size, int) else size[0]
    pixels = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(1))
    tokens = clip.tokenizer(["a dog", "two small cats on a red mat"])
    with torch.no_grad():
        for encode, x in (("encode_image", pixels), ("encode_text", tokens)):
            found, expected = (getattr(run.model, encode)(x) for run in (integer, simulated))
            # one value that is rounded to the other side takes up to 2e-4 here
            assert F.cosine_similarity(found, expected).min() >= 0.999
    reasons = Counter(
        fallback.reason.partition(" in float")[0] for fallback in integer.runtime.fallbacks
    )
    assert reasons == EXPECTED[name]
