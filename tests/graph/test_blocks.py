# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Which modules are residual blocks, in which order they run, and what lies in them."""

import pytest
from torch import nn

from qkit.clip.layout import swap_clip
from qkit.graph.blocks import Block, block_of, list_blocks
from qkit.nn.linear import QuantLinear

TOWERS = {"image": ("visual",), "text": ("transformer", "text")}


def grow(*paths, leaf=nn.Module):
    """Modules nested as the dotted paths say, registered in their order."""
    root = nn.Module()
    for path in paths:
        *above, last = path.split(".")
        place = root
        for name in above:
            if name not in dict(place.named_children()):
                place.add_module(name, nn.Module())
            place = place.get_submodule(name)
        place.add_module(last, leaf())
    return root


def found(*paths):
    """Blocks of modules at these paths, each with one layer inside."""
    model = grow(*(f"{path}.fc" for path in paths), leaf=lambda: QuantLinear(1, 1))
    return [(b.tower, b.index, b.name) for b in list_blocks(model, TOWERS)]


def test_blocks_of_a_clip_are_numbered_by_tower(student):
    assert [(block.tower, block.index, block.name) for block in student.blocks] == [
        ("image", 0, "visual.transformer.resblocks.0"),
        ("image", 1, "visual.transformer.resblocks.1"),
        ("text", 0, "transformer.resblocks.0"),
        ("text", 1, "transformer.resblocks.1"),
    ]
    for block in student.blocks:
        assert student.model.get_submodule(block.name) is block.module


def test_every_layer_inside_the_transformers_lies_in_a_block(student):
    outside = {x.name for x in student.layers if block_of(x.name, student.blocks) is None}
    assert outside == {"visual.conv1", "visual.proj", "token_embedding", "text_projection"}


def test_the_index_runs_on_over_stages():
    stages = [f"visual.trunk.layers.{s}.blocks.{b}" for s, n in enumerate((2, 3)) for b in range(n)]
    assert found(*stages) == [("image", i, name) for i, name in enumerate(stages)]


def test_of_nested_ones_the_innermost_counts():
    inner = [f"text.encoder.layers.{i}.layer.{j}" for i in range(2) for j in range(2)]
    assert [name for _, _, name in found(*inner, "text.encoder.layers.2")] == [
        *inner,
        "text.encoder.layers.2",
    ]


def test_more_than_ten_blocks_stay_in_the_order_in_which_they_run():
    names = [f"transformer.resblocks.{i}" for i in range(12)]
    assert found(*names) == [("text", i, name) for i, name in enumerate(names)]


def test_towers_are_counted_apart_and_nothing_else_is_counted():
    assert found(
        "transformer.resblocks.0",
        "visual.blocks.0",
        "text_decoder.resblocks.0",
        "visual.blocks.1",
        "logit.layers.0",
    ) == [
        ("text", 0, "transformer.resblocks.0"),
        ("image", 0, "visual.blocks.0"),
        ("image", 1, "visual.blocks.1"),
    ]


@pytest.mark.parametrize(
    "name",
    [
        "visual.transformer.resblocks.11",
        "text.transformer.encoder.layer.2",
        "visual.trunk.blocks.7",
        "visual.layers.0",
    ],
)
def test_names_of_blocks(name):
    assert [block for _, _, block in found(name)] == [name]


@pytest.mark.parametrize(
    "name",
    [
        "visual.myblocks.3",
        "visual.layer1.0",
        "visual.blocks.x",
        "visual.blocks",
        "visual.trunk.stages.0",
        "visual.conv1",
        "blocks.0",
        "visualizer.blocks.0",
    ],
)
def test_names_that_are_no_blocks(name):
    assert found(name) == []


def test_a_layer_in_a_numbered_list_is_no_block():
    heads = grow("visual.layers.0", "visual.layers.1", leaf=lambda: QuantLinear(2, 2))
    assert list_blocks(heads, TOWERS) == ()
    inside = grow("visual.blocks.0.mlp.layers.0", leaf=lambda: QuantLinear(2, 2))
    assert [block.name for block in list_blocks(inside, TOWERS)] == ["visual.blocks.0"]


def test_blocks_of_every_architecture(architecture):
    towers = swap_clip(architecture.model)
    blocks = list_blocks(architecture.model, towers)
    assert {"text"} <= {block.tower for block in blocks} <= {"image", "text"}
    for tower in towers:
        mine = [block for block in blocks if block.tower == tower]
        assert [block.index for block in mine] == list(range(len(mine)))
    names = [name for name, _ in architecture.model.named_modules()]
    places = [names.index(block.name) for block in blocks]
    assert places == sorted(places)
    assert not any(one.holds(other.name) for one in blocks for other in blocks)


def test_a_residual_network_has_no_blocks_in_its_image_tower(build):
    clip = build("resnet")
    blocks = list_blocks(clip.model, swap_clip(clip.model))
    assert [(block.tower, block.index) for block in blocks] == [("text", 0), ("text", 1)]


BLOCKS = tuple(
    Block(name, tower, index, nn.Module())
    for name, tower, index in (
        ("visual.transformer.resblocks.1", "image", 1),
        ("visual.transformer.resblocks.11", "image", 11),
        ("visual.trunk.layers.1.blocks.0", "image", 4),
        ("transformer.resblocks.0", "text", 0),
        ("text.transformer.encoder.layer.2", "text", 2),
        ("resblocks.5", "text", 5),
    )
)


@pytest.mark.parametrize(
    ("name", "index"),
    [
        ("visual.transformer.resblocks.11.attn.q_proj", 11),
        ("visual.transformer.resblocks.1.attn", 1),
        ("transformer.resblocks.0.mlp.c_fc", 0),
        ("visual.trunk.layers.1.blocks.0.mlp", 4),
        ("text.transformer.encoder.layer.2.attention", 2),
        ("resblocks.5.ln", 5),
        ("visual.transformer.resblocks.111.attn", None),
        ("visual.trunk.layers.1.downsample", None),
        ("visual.conv1", None),
        ("text_projection", None),
        ("visual.layer1.0.conv1", None),
        ("visual.myblocks.3.conv", None),
    ],
)
def test_block_of_a_layer(name, index):
    assert block_of(name, BLOCKS) == index


def test_without_blocks_nothing_lies_in_one():
    assert block_of("transformer.resblocks.0.mlp", ()) is None
