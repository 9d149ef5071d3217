# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Every layer with a weight as a matrix product of rows and a flat weight."""

import pytest
import torch
from torch import nn

from qkit.graph.layers import Layer
from qkit.nn.conv import QuantConv2d


@pytest.fixture
def calls(student):
    """Input and output of every layer in one pass over two images and two texts, by name."""
    found = {}

    def note(name):
        return lambda _, args, output: found.update({name: (args[0], output)})

    handles = [x.module.register_forward_hook(note(x.name)) for x in student.layers]
    pixels = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        student.model.encode_image(pixels)
        student.model.encode_text(student.clip.tokenizer(["a dog", "the sky"]))
    for handle in handles:
        handle.remove()
    return found


def test_rows_times_the_weight_are_the_output_of_every_matrix_layer(student, calls):
    kinds = set()
    for layer in student.layers:
        x, output = calls[layer.name]
        rows = layer.rows(x)
        if rows is None:
            continue
        kinds.add(layer.kind)
        found = rows @ layer.weight_rows.T
        bias = getattr(layer.module, "bias", None)
        found = found if bias is None else found + bias.detach()
        expected = output.movedim(layer.input_axis, -1).flatten(0, -2)
        torch.testing.assert_close(found, expected)
    assert kinds == {"conv", "linear", "projection"}


def test_what_is_no_matrix_product_has_no_rows(student, calls):
    kinds = [x.kind for x in student.layers if x.rows(calls[x.name][0]) is None]
    assert set(kinds) == {"attention", "embedding"}


def test_a_grouped_convolution_has_no_rows(normal):
    module = QuantConv2d.from_float(nn.Conv2d(4, 4, 3, groups=2))
    assert Layer("conv", "image", "conv", module).rows(normal(1, 4, 5, 5)) is None


def test_the_weight_is_the_float_one_without_its_gradient(student):
    for layer in student.layers:
        rows = layer.weight_rows
        assert not rows.requires_grad
        if layer.kind == "attention":
            assert rows.numel() == 0
        else:
            assert rows.shape == (len(layer.module.weight), layer.module.weight[0].numel())
            assert rows.data_ptr() == layer.module.weight.data_ptr()
