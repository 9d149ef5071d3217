# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Short names of layers, data and figures."""

import pytest

from qkit.report.figures import figure_name
from qkit.report.names import short_name, source_name


@pytest.mark.parametrize(
    ("name", "short"),
    [
        ("visual.transformer.resblocks.11.mlp.c_fc", "mlp.c_fc"),
        ("resblocks.2.attn.q_proj", "attn.q_proj"),
        ("visual.trunk.stages.1.blocks.0.mlp.fc1", "mlp.fc1"),
        ("text.transformer.encoder.layer.3.attention", "attention"),
        ("visual.conv1", "visual.conv1"),
        ("visual.myblocks.3.conv", "visual.myblocks.3.conv"),
    ],
)
def test_a_layer_loses_the_path_to_its_block_only(name, short):
    assert short_name(name) == short


@pytest.mark.parametrize(
    ("source", "short"),
    [
        ("captions:a/b/test.csv", "captions:test.csv"),
        ("demo:pairs", "demo:pairs"),
        ("demo", "demo"),
    ],
)
def test_data_lose_their_folders(source, short):
    assert source_name(source) == short


@pytest.mark.parametrize(
    ("figure", "words"), [("image_to_text.r10", "image to text R@10"), ("top1", "top-1")]
)
def test_figures_in_words(figure, words):
    assert figure_name(figure) == words
