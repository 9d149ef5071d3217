# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Crops are parts of their image, in its size and range; towers see new ones each time."""

import itertools
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from calibrators.reconstruction.views import LEAST, crops, views


def seeded(seed):
    return torch.Generator().manual_seed(seed)


@given(st.integers(1, 4), st.integers(1, 24), st.integers(1, 24), st.integers(0, 99))
def test_crops_keep_shape_and_range_of_each_image(count, height, width, seed):
    pixels = torch.randn(count, 3, height, width, generator=seeded(seed))
    found = crops(pixels, seeded(seed))
    assert found.shape == pixels.shape
    flat, other = pixels.flatten(1), found.flatten(1)
    assert bool((other.amin(1) >= flat.amin(1)).all() and (other.amax(1) <= flat.amax(1)).all())
    assert torch.equal(found, crops(pixels, seeded(seed)))


def test_a_crop_shows_a_part_of_a_ramp_enlarged_and_sometimes_mirrored():
    size = 100
    ramp = torch.linspace(0, 1, size).expand(64, 3, size, size)
    spans = crops(ramp, seeded(0))[:, 0, 50, [10, -11]].diff().flatten()
    whole = ramp[0, 0, 50, -11] - ramp[0, 0, 50, 10]
    assert bool((spans > 0).any() and (spans < 0).any())
    assert float(spans.abs().min()) == pytest.approx(LEAST * float(whole), rel=0.1)
    assert float(spans.abs().max()) == pytest.approx(float(whole), rel=0.1)


def rig(tower):
    return SimpleNamespace(tower=tower, samples=list(torch.randn(4, 2, 3, 8, 8).unbind()))


@pytest.mark.parametrize(("tower", "each"), [("text", 2), ("image", 0)])
def test_without_crops_samples_are_as_they_are(tower, each):
    made = rig(tower)
    see = views(made, each)
    assert all(see(number) is batch for number, batch in enumerate(made.samples))


def test_crops_are_new_each_time():
    made = rig("image")
    see = views(made, 2)
    torch.manual_seed(0)
    visits = [see(0) for _ in range(30)]
    whole = [pixels is made.samples[0] for pixels in visits]
    assert 3 <= sum(whole) <= 17  # a third of 30, by chance
    crops = [visit for visit, as_is in zip(visits, whole, strict=True) if not as_is]
    assert not any(torch.equal(a, b) for a, b in itertools.pairwise(crops))
    assert all(pixels.shape == made.samples[0].shape for pixels in crops)
    torch.manual_seed(0)
    assert torch.equal(see(0), visits[0])
