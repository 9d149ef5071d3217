# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Real images through a pre-trained tower: the same bits, and where they are not.

Rounding amplifies the last bits of a sum (see ``qkit.load``): with gradients a simulation sums
products of floats, and differs from itself without.
"""

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

import qkit
from qkit.clip.zero_shot import class_embeddings, templates
from qkit.data import image_batches, open_dataset, parse_source
from qkit.progress import ignore
from qkit.runtime.kernels import missing_kernel
from tests.runtime.conftest import int8, same_bits

pytestmark = pytest.mark.slow
EVERY = 5  # of the 1,000 images


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
    runs = {"simulated": qkit.load(path)}
    runs |= {name: int8(path, name) for name in ("int8", "exact")}
    found = {name: features(run.clip, testbed) for name, run in runs.items()}
    return found | {"with gradients": features(runs["simulated"].clip, testbed, gradients=True)}


def features(clip, testbed, gradients=False):
    dataset = open_dataset(parse_source(f"classes:{testbed}/imagenet-sample"))
    batches = image_batches(dataset.samples[::EVERY], clip.preprocess, 20)
    with torch.set_grad_enabled(gradients):
        parts = [clip.model.encode_image(batch.pixels).detach() for batch in batches]
    images = torch.cat(parts)
    classes = class_embeddings(clip, dataset.classnames, templates(7)[:1], ignore)
    return SimpleNamespace(images=F.normalize(images, dim=-1), classes=classes)


def agreement(first, second):
    """Share of images with the same class, and mean cosine of images."""
    guesses = [(f.images @ f.classes.T).argmax(1) for f in (first, second)]
    cosine = (first.images * second.images).sum(-1).mean()
    return float((guesses[0] == guesses[1]).float().mean()), float(cosine)


def test_kernels_and_exact_sums_give_the_same(found):
    if not same_bits():
        pytest.skip("this machine's kernel multiplies by its scales in another order")
    assert torch.equal(found["int8"].images, found["exact"].images)
    assert torch.equal(found["int8"].classes, found["exact"].classes)


@pytest.mark.parametrize("other", ["int8", "exact"])
def test_integers_name_the_classes_of_the_simulation(found, other):
    if other == "int8" and not same_bits():
        pytest.skip("this machine's kernel multiplies by its scales in another order")
    top1, cosine = agreement(found["simulated"], found[other])
    assert top1 >= 0.995
    assert cosine >= 0.9999


def test_sums_of_floats_are_where_a_simulation_may_differ(found):
    simulated, other = found["simulated"], found["with gradients"]
    assert not torch.equal(simulated.images, other.images)
    _, cosine = agreement(simulated, other)
    assert cosine >= 0.99
