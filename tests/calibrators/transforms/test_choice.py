# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""The best of all candidates: never worse than none, and better where channels stand out."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from calibrators.transforms.candidates import FAMILIES
from calibrators.transforms.choice import CLIPS, WEIGHT_CLIPS, Choice, Reader, round_weight
from qkit.spec import Granularity, QuantSpec
from qkit.transform import Transform

SIZE = 12
W4, W8 = (QuantSpec(bits, symmetric=True, granularity=Granularity.CHANNEL) for bits in (4, 8))
SPECS = {
    "tensor": QuantSpec(4),
    "symmetric": QuantSpec(4, symmetric=True),
    "token": QuantSpec(4, granularity=Granularity.TOKEN),
}
seeds = st.integers(0, 2**20)


def make(spec, seed=0, outlier=1.0, weight_spec=W4, size=SIZE):
    """An input with a channel ``outlier`` times the others; two weights make up for it."""
    gen = torch.Generator().manual_seed(seed)
    rows = torch.randn(60, size, generator=gen)
    rows[:, 5] *= outlier
    weights = [torch.randn(n, size, generator=gen) for n in (4, 6)]
    for weight in weights:
        weight[:, 5] /= outlier
    return Choice(rows, [Reader(weight, weight_spec) for weight in weights], spec, (3, 2, 2))


def parts(transform):
    return set(transform.tensors()) - {"clip"}


@settings(deadline=None, max_examples=15)
@given(seeds, st.sampled_from(list(SPECS.values())), st.sampled_from([None, W4]))
def test_it_is_never_worse_than_leaving_the_input(seed, spec, weight_spec):
    choice = make(spec, seed, outlier=1.0 + seed % 7, weight_spec=weight_spec)
    plain = choice.error(Transform())
    for families in (["balance"], list(FAMILIES)):
        transform, ratio = choice.best(families)
        assert choice.error(transform) <= plain
        assert ratio <= 1.0
        assert ratio == pytest.approx(choice.error(transform) / plain, rel=1e-6)


@pytest.mark.parametrize("name", SPECS)
@pytest.mark.parametrize("family", FAMILIES)
def test_each_family_deals_with_a_channel_that_stands_out(name, family):
    choice = make(SPECS[name], outlier=100.0, weight_spec=W8)
    transform, ratio = choice.best([family])
    assert parts(transform)
    assert ratio < 0.7


@pytest.mark.parametrize("weight_spec", [None, W8, W4], ids=str)
@pytest.mark.parametrize("name", SPECS)
def test_a_channel_that_stands_out_is_not_left_as_it_is(name, weight_spec):
    transform, ratio = make(SPECS[name], outlier=100.0, weight_spec=weight_spec).best(FAMILIES)
    assert parts(transform)
    assert ratio < 0.7


@pytest.mark.parametrize("name", SPECS)
def test_more_families_are_never_worse(name):
    choice = make(SPECS[name], outlier=30.0)
    singles = [choice.best([family])[1] for family in FAMILIES]
    found = choice.best(FAMILIES)[1]
    if SPECS[name].dynamic:  # the clip is chosen for one winner only
        assert found <= max(singles)
    else:
        assert found == min(singles)


@pytest.mark.parametrize("name", SPECS)
def test_only_scales_of_tokens_are_clipped(name):
    spec = replace(SPECS[name], bits=3)
    transform, ratio = make(spec, size=96).best([])
    assert not parts(transform)
    if spec.dynamic:  # of many normal values at 3 bits, the ends are better cut
        assert transform.clip in CLIPS
        assert transform.clip < 1.0
        assert ratio < 1.0
    else:
        assert (transform.clip, ratio) == (1.0, 1.0)


def test_the_clip_is_the_best_of_all():
    chosen = set()
    for bits, size in ((4, 12), (3, 48), (3, 192)):
        choice = make(QuantSpec(bits, granularity=Granularity.TOKEN), size=size)
        errors = {clip: choice.error(Transform(clip=clip)) for clip in CLIPS}
        clip = choice.best([])[0].clip
        assert clip == min(errors, key=errors.get)
        chosen.add(clip)
    assert len(chosen) == 3


def nearest(values, scale, zero_point, spec):
    bounds = (spec.quant_min, spec.quant_max)
    return torch.fake_quantize_per_tensor_affine(values, float(scale), int(zero_point), *bounds)


@pytest.mark.parametrize("name", SPECS)
def test_the_error_is_that_of_the_products_by_the_energy_of_the_rows(name):
    spec, choice = SPECS[name], make(SPECS[name], weight_spec=None)
    x = choice.rows
    groups = list(x[:, None]) if spec.dynamic else [x]
    rounded = []
    for part in groups:
        low, high = part.min().clamp(max=0), part.max().clamp(min=0)
        if spec.symmetric:
            scale, zero_point = torch.maximum(-low, high) / 7.5, 0
        else:
            scale = (high - low) / 15
            zero_point = -torch.round(low / scale)
        rounded.append(nearest(part, scale, zero_point, spec))
    off = (torch.cat(rounded) - x).double()
    share = 1 / x.double().square().sum(1)
    expected = 0.0
    for reader in choice.readers:
        expected += float(((off @ reader.weight.double().T) ** 2).sum(1) @ share / share.sum())
    assert choice.error(Transform()) == pytest.approx(expected, rel=1e-4)


def test_errors_of_readers_add_up():
    choice = make(SPECS["token"])
    alone = [Choice(choice.rows, [reader], choice.spec) for reader in choice.readers]
    total = sum(one.error(Transform()) for one in alone)
    assert choice.error(Transform()) == pytest.approx(total, rel=1e-5)


@pytest.mark.parametrize("granularity", [Granularity.CHANNEL, Granularity.TENSOR])
def test_a_weight_is_rounded_with_its_best_scales(granularity, normal):
    spec, weight = QuantSpec(3, True, granularity), normal(200, SIZE)
    found = round_weight(weight, spec)
    groups = weight if granularity is Granularity.CHANNEL else weight[None]
    for group, ours in zip(groups, found if len(groups) == 200 else found[None], strict=True):
        tried = [nearest(group, group.abs().max() * c / 3.5, 0, spec) for c in WEIGHT_CLIPS]
        least = min(float((one - group).square().sum()) for one in tried)
        assert float((ours - group).square().sum()) == pytest.approx(least, rel=1e-5)


EMPTY = {
    "zero": torch.zeros(20, SIZE),
    "constant": torch.full((20, SIZE), 3.0),
    "negative constant": torch.full((20, SIZE), -3.0),
    "one row": torch.arange(float(SIZE))[None],
    "some zero rows": torch.eye(20, SIZE),
}


@pytest.mark.parametrize("rows", EMPTY.values(), ids=EMPTY)
@pytest.mark.parametrize("name", SPECS)
def test_inputs_that_say_next_to_nothing(rows, name, normal):
    for weight in (normal(5, SIZE), torch.zeros(5, SIZE)):
        choice = Choice(rows, [Reader(weight, W4)], SPECS[name], (3, 2, 2))
        transform, ratio = choice.best(FAMILIES)
        assert 0 <= ratio <= 1
        assert bool(transform.into(rows).isfinite().all())
        if not rows.any() or not weight.any():
            assert ratio == 1.0
