# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Small models of every architecture that qkit takes apart, and what to compare them by."""

from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from qkit.clip.loading import load_model
from qkit.clip.model import ClipModel
from qkit.clip.rebuild import rebuild
from qkit.pipeline.student import Student, prepare

VISION = {"image_size": 32, "layers": 2, "width": 64, "head_width": 16, "patch_size": 8}
TEXT = {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2}
CUSTOM = dict.fromkeys(
    ("qk_norm", "scale_heads", "scale_attn_inner", "scale_attn", "scale_fc"), True
)
POOLED = {"attentional_pool": True, "attn_pooler_queries": 4, "attn_pooler_heads": 4}
COCA = {"context_length": 15, "embed_cls": True, "output_tokens": True}
DECODER = {**TEXT, "context_length": 15, "layers": 1, "attn_pooler_heads": 2}
MODELS = {
    "vit": {"vision_cfg": VISION, "text_cfg": TEXT},
    "resnet": {
        "vision_cfg": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 16, "patch_size": None},
        "text_cfg": TEXT,
    },
    "pooler": {"vision_cfg": VISION | POOLED, "text_cfg": TEXT},
    "custom": {
        "vision_cfg": VISION | CUSTOM,
        "text_cfg": TEXT | CUSTOM | {"proj_bias": True},
        "custom_text": True,
    },
    "coca": {
        "vision_cfg": VISION | POOLED | {"output_tokens": True},
        "text_cfg": TEXT | COCA,
        "multimodal_cfg": DECODER,
        "custom_text": True,
    },
    "timm": {
        "vision_cfg": {
            "timm_model_name": "test_vit",
            "timm_model_pretrained": False,
            "timm_pool": "",
            "image_size": 160,
        },
        "text_cfg": TEXT,
    },
}


def stir(model: nn.Module) -> None:
    """Add noise to every parameter: those that start at 0 or 1 must be told apart too."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.nan_to_num_(0.0).clamp_(-3, 3).add_(noise / 50)


@pytest.fixture(scope="session")
def example() -> Callable[[ClipModel], SimpleNamespace]:
    """Stir a model and remember its features of two images and two texts, and its state."""

    def example(clip: ClipModel) -> SimpleNamespace:
        stir(clip.model)
        size = clip.config["preprocess_cfg"]["size"]
        height, width = (size, size) if isinstance(size, int) else size
        pixels = torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(1))
        tokens = clip.tokenizer(["a dog", "two small cats on a red mat"])

        def features(model: nn.Module) -> tuple[Tensor, Tensor]:
            with torch.no_grad():
                return model.encode_image(pixels), model.encode_text(tokens)

        state = {name: value.clone() for name, value in clip.model.state_dict().items()}
        return SimpleNamespace(features=features, before=features(clip.model), state=state)

    return example


@pytest.fixture(scope="session")
def build() -> Callable[[str], ClipModel]:
    """Build one of the small models by name."""
    return lambda name: rebuild(name, {"model_cfg": {"embed_dim": 32, **MODELS[name]}})


@pytest.fixture(params=MODELS)
def architecture(request, build) -> ClipModel:
    """Each of the small models in turn."""
    return build(request.param)


@pytest.fixture(scope="module")
def student(tiny_folder) -> Student:
    """The tiny model, swapped; shared by a file's tests, each of which gives it its own points."""
    return prepare(load_model(f"local-dir:{tiny_folder}"), copy=False)
