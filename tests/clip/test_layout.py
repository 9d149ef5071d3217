# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
import pytest
from torch import nn

from qkit.clip.layout import TEXT_MEMBERS, swap_clip, towers
from qkit.errors import ModelError


def test_towers_of_a_clip_model(tiny):
    assert towers(tiny.model) == {"image": ("visual",), "text": TEXT_MEMBERS}
    assert swap_clip(tiny.model) == towers(tiny.model)


def test_towers_of_a_model_with_a_text_module():
    model = nn.ModuleDict({"visual": nn.Identity(), "text": nn.Identity()})
    assert towers(model) == {"image": ("visual",), "text": ("text",)}


@pytest.mark.parametrize(
    ("members", "missing"),
    [([], "image"), (["fc"], "image"), (["text"], "image"), (["visual"], "text")],
)
def test_model_without_a_tower_is_refused(members, missing):
    model = nn.ModuleDict({name: nn.Identity() for name in members})
    with pytest.raises(ModelError) as caught:
        towers(model)
    assert str(caught.value) == (
        f"ModuleDict has no {missing} tower. "
        "Use a CLIP model of open_clip (one with encode_image and encode_text)."
    )
