# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Real images through a pre-trained tower: the same classes, and how far a simulation may be off.

Rounding amplifies the last bits of a sum (see ``qkit.load``). How much is found out with a second
simulation that sums in float64: integers may differ from the first one as much as that does.
"""

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

import qkit
from qkit.clip.zero_shot import class_embeddings, templates
from qkit.data import image_batches, open_dataset, parse_source
from qkit.nn.linear import QuantLinear
from qkit.progress import ignore
from qkit.runtime.kernels import missing_kernel
from tests.runtime.conftest import int8, same_bits

pytestmark = pytest.mark.slow
EVERY = 5  # of the 1,000 images


class SummedInFloat64(QuantLinear):
    def product(self, x, weight):
        bias = None if self.bias is None else self.bias.double()
        return F.linear(x.double(), weight.double(), bias).float()


@pytest.fixture(scope="module")
def found(testbed, tmp_path_factory):
    """Unit features of images and classes, by model."""
    if (missing := missing_kernel()) is not None:
        pytest.skip(missing)
    path = tmp_path_factory.mktemp("runs") / "run"
    few = qkit.Overrides(samples=32)
    data = f"captions:{testbed}/flickr8k/calib.csv"
    model = f"local-dir:{testbed}/vit-tiny-lit"
    qkit.calibrate(model, data, recipe="w8a8-fast", overrides=few).save(path)
    runs = {"simulated": qkit.load(path), "float64": qkit.load(path)}
    for module in runs["float64"].model.modules():
        if type(module) is QuantLinear:
            module.__class__ = SummedInFloat64
    runs |= {name: int8(path, name) for name in ("int8", "exact")}
    return {name: features(run.clip, testbed) for name, run in runs.items()}


@torch.no_grad()
def features(clip, testbed):
    dataset = open_dataset(parse_source(f"classes:{testbed}/imagenet-sample"))
    batches = image_batches(dataset.samples[::EVERY], clip.preprocess, 20)
    images = torch.cat([clip.model.encode_image(batch.pixels) for batch in batches])
    classes = class_embeddings(clip, dataset.classnames, templates(7)[:1], ignore)
    return SimpleNamespace(images=F.normalize(images, dim=-1), classes=classes)


def agreement(first, second):
    """Share of images with the same class, and mean cosine of images."""
    guesses = [(f.images @ f.classes.T).argmax(1) for f in (first, second)]
    cosine = (first.images * second.images).sum(-1).mean()
    return float((guesses[0] == guesses[1]).float().mean()), float(cosine)


def test_kernels_and_exact_sums_name_the_same_classes(found):
    top1, cosine = agreement(found["int8"], found["exact"])
    assert top1 >= 0.995
    assert cosine >= 0.9999
    if same_bits():
        assert torch.equal(found["int8"].images, found["exact"].images)
        assert torch.equal(found["int8"].classes, found["exact"].classes)


def test_integers_differ_from_a_simulation_as_another_simulation_does(found):
    top1, cosine = agreement(found["simulated"], found["int8"])
    other_top1, other_cosine = agreement(found["simulated"], found["float64"])
    assert 1 - cosine <= 1.25 * (1 - other_cosine)
    assert top1 >= min(0.995, other_top1 - 0.015)
