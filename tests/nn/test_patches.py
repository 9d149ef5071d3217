# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""A convolution as a matrix product: its patches times its flat weight."""

import pytest
import torch
from torch import nn

from qkit.nn.conv import QuantConv2d

CASES = {
    "patch embedding": {"kernel_size": 4, "stride": 4, "bias": False},
    "plain": {"kernel_size": 3},
    "stride": {"kernel_size": 3, "stride": (2, 1)},
    "padding": {"kernel_size": (3, 5), "padding": (1, 2)},
    "dilation": {"kernel_size": 3, "dilation": (2, 1), "padding": 2},
    "same": {"kernel_size": (3, 4), "padding": "same"},
    "valid": {"kernel_size": 3, "padding": "valid"},
    "reflect": {"kernel_size": 3, "padding": (2, 1), "padding_mode": "reflect"},
    "replicate": {"kernel_size": 3, "padding": 2, "padding_mode": "replicate", "stride": 2},
    "circular": {"kernel_size": 3, "padding": (1, 0), "padding_mode": "circular"},
    "same, reflect": {"kernel_size": 4, "padding": "same", "padding_mode": "reflect"},
}


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@pytest.mark.parametrize("options", CASES.values(), ids=CASES)
def test_patches_times_the_weight_are_the_convolution(options, fill, normal):
    layer = QuantConv2d.from_float(fill(nn.Conv2d(3, 5, **options)))
    x = normal(2, 3, 8, 12)
    with torch.no_grad():
        expected = layer(x)
        found = layer.patches(x) @ layer.weight.flatten(1).T
        if layer.bias is not None:
            found = found + layer.bias
    rows = expected.permute(0, 2, 3, 1)
    assert found.shape == (rows[..., 0].numel(), 5)
    torch.testing.assert_close(found.reshape(rows.shape), rows)
