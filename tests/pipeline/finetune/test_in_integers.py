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
from tests.pipeline.finetune.conftest import COLOURS


def test_prompt_and_adapter_are_used_and_the_adapter_is_listed(tuned, pixels):
    if (missing := missing_kernel()) is not None:
        pytest.skip(missing)
    _, path = tuned
    with pytest.warns(QkitWarning, match="2: it belongs to the adapter, which is simulated"):
        loaded = qkit.load(path, runtime="int8")
    simulated = qkit.load(path)
    assert {f"{MEMBER}.down", f"{MEMBER}.up"} <= {f.layer for f in loaded.runtime.fallbacks}
    with torch.no_grad():
        images = [run.model.encode_image(pixels) for run in (loaded, simulated)]
    texts = [run.class_embeddings(COLOURS) for run in (loaded, simulated)]
    for mine, reference in (images, texts):
        assert float(F.cosine_similarity(mine, reference).min()) > 0.999
