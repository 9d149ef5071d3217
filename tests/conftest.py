# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""A tiny CLIP on disk, small images, and the testbed where it lies beside the checkout."""

import csv
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

import qkit
from qkit.clip.loading import load_model
from qkit.clip.model import ClipModel
from qkit.clip.rebuild import rebuild

TINY = {
    "embed_dim": 32,
    "vision_cfg": {
        "image_size": 32,
        "layers": 2,
        "width": 64,
        "head_width": 16,
        "patch_size": 8,
    },
    "text_cfg": {
        "context_length": 16,
        "vocab_size": 49408,
        "width": 32,
        "heads": 2,
        "layers": 2,
    },
}
COLOURS = {"red": (200, 30, 30), "green": (30, 180, 40), "blue": (30, 40, 210)}


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory) -> Path:
    """A local-dir model: two blocks a tower, random weights with planted outlier channels."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    folder.mkdir()
    config = {"model_cfg": TINY, "preprocess_cfg": {"size": 32}}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    torch.manual_seed(0)
    state = rebuild("tiny", config).model.state_dict()
    state["visual.transformer.resblocks.1.mlp.c_fc.bias"][3] += 30.0
    save_file({k: v.contiguous() for k, v in state.items()}, folder / "open_clip_model.safetensors")
    return folder


@pytest.fixture
def tiny(tiny_folder) -> ClipModel:
    """The tiny model, loaded anew for each test."""
    return load_model(f"local-dir:{tiny_folder}")


@pytest.fixture
def normal() -> Callable[..., torch.Tensor]:
    """Normal values of a shape, the same in every run."""
    generator = torch.Generator().manual_seed(0)
    return lambda *shape: torch.randn(*shape, generator=generator)


@pytest.fixture
def pixels() -> torch.Tensor:
    """Four images for the tiny model."""
    return torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def tokens(tiny) -> torch.Tensor:
    """Three captions of different lengths."""
    return tiny.tokenizer(["a dog", "two small cats on a red mat", "sky"])


@pytest.fixture(scope="session")
def shapes(tmp_path_factory) -> Path:
    """A folder of noisy coloured images: ``classes/`` by colour, ``captions.csv``, ``images/``."""
    root = tmp_path_factory.mktemp("shapes")
    rng = np.random.default_rng(0)
    rows = []
    for colour, rgb in COLOURS.items():
        for i in range(4):
            noise = rng.normal(0, 40, (40, 48, 3))
            image = Image.fromarray(np.clip(noise + rgb, 0, 255).astype(np.uint8))
            for path in (
                root / "classes" / colour / f"{i}.png",
                root / "images" / f"{colour}{i}.png",
            ):
                path.parent.mkdir(parents=True, exist_ok=True)
                image.save(path)
            rows += [
                (f"images/{colour}{i}.png", f"a {colour} thing"),
                (f"images/{colour}{i}.png", colour),
            ]
    with (root / "captions.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("image", "caption"), *rows])
    return root


@pytest.fixture(scope="session")
def save_run(tiny_folder, shapes, tmp_path_factory) -> Callable[..., Path]:
    """Calibrate the tiny model on the captions at 4 bits, as the options say; its run folder."""

    def save(folder=tiny_folder, **options):
        samples = qkit.Overrides(samples=6)
        options = {"bits": 4, "method": "minmax", "overrides": samples, **options}
        path = tmp_path_factory.mktemp("runs") / "run"
        qkit.calibrate(f"local-dir:{folder}", f"captions:{shapes}/captions.csv", **options).save(
            path
        )
        return path

    return save


@pytest.fixture(scope="session")
def testbed() -> Path:
    """Real images and a real pre-trained tower; skipped where they are not at hand."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "testbed"
    if not folder.is_dir():
        pytest.skip("the testbed (../shared/testbed) is not beside this checkout")
    return folder
