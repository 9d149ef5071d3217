# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""A fine-tuned run whose towers run in integers: prompt and adapter are in use there, too."""

import pytest
import torch
import torch.nn.functional as F

import qkit
from qkit.errors import QkitWarning
from qkit.pipeline.finetune.learned import MEMBER
from qkit.runtime.kernels import missing_kernel
from qkit.runtime.modules import IntLinear
from tests.pipeline.finetune.conftest import COLOURS


@pytest.fixture(autouse=True)
def _kernels():
    if (missing := missing_kernel()) is not None:
        pytest.skip(missing)


def test_prompt_and_adapter_are_used(tuned, pixels):
    _, path = tuned
    with pytest.warns(QkitWarning, match=r"4 of 34 layers compute in float \(4: its two products"):
        loaded = qkit.load(path, runtime="int8")
    simulated = qkit.load(path)
    with torch.no_grad():
        images = [run.model.encode_image(pixels) for run in (loaded, simulated)]
    texts = [run.class_embeddings(COLOURS) for run in (loaded, simulated)]
    for mine, reference in (images, texts):
        assert float(F.cosine_similarity(mine, reference).min()) > 0.999


def test_the_adapter_multiplies_in_integers_and_gives_the_same_bits(tuned, pixels):
    _, path = tuned
    with pytest.warns(QkitWarning):
        integer = getattr(qkit.load(path, runtime="exact").model, MEMBER)
    simulated = getattr(qkit.load(path).model, MEMBER)
    assert isinstance(integer.down, IntLinear)
    assert isinstance(integer.up, IntLinear)
    features = torch.randn(5, integer.up.gemm.outer, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(integer(features), simulated(features))
        assert not torch.equal(integer(features), features)
