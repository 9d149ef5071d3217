# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""What each family offers: exact changes of coordinates, by formulas written a second time."""

import numpy as np
import pytest
import torch

from calibrators.transforms.candidates import FAMILIES, STRENGTHS
from qkit.transform import Transform

SIZE, SHAPE = 12, (3, 2, 2)


def rows_and_weight(seed=0, size=SIZE):
    """Channels of very different sizes and means, rows of very different energies."""
    gen = torch.Generator().manual_seed(seed)
    sizes = torch.randn(size, generator=gen).exp()
    rows = (torch.randn(200, size, generator=gen) + torch.randn(size, generator=gen)) * sizes
    rows = rows * torch.randn(200, 1, generator=gen).exp()
    weight = torch.randn(7, size, generator=gen) * torch.randn(size, generator=gen).exp()
    return rows, weight


def offers(family, rows, weight, shape=SHAPE):
    return list(FAMILIES[family](rows, weight, shape))


def unit(gain):
    """Gains with a geometric mean of 1."""
    return gain / np.exp(np.log(gain).mean())


def measured(rows, weight):
    """Mean, deviation and spread of channels, rows counting by one over their energy."""
    x, w = rows.double().numpy(), weight.double().numpy()
    share = 1 / (x**2).sum(1)
    mean = np.average(x, axis=0, weights=share)
    deviation = np.sqrt(np.average((x - mean) ** 2, axis=0, weights=share))
    spread = np.sqrt(np.average(x**2, axis=0, weights=share))
    return mean, deviation, spread, np.sqrt((w**2).sum(0))


def close(found, expected):
    torch.testing.assert_close(found, torch.from_numpy(expected).float(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("seed", range(3))
def test_every_candidate_is_exact(family, seed):
    rows, weight = rows_and_weight(seed)
    found = [transform.double() for transform in offers(family, rows, weight)]
    rows, weight = rows.double(), weight.double()
    assert found
    for transform in found:
        assert transform.clip == 1.0
        assert any(part for part in transform.tensors() if part != "clip")
        shift = 0.0 if transform.shift is None else weight @ transform.shift
        product = transform.into(rows) @ transform.weight_into(weight).T + shift
        exact = rows @ weight.T
        torch.testing.assert_close(product, exact, rtol=0, atol=1e-5 * float(exact.abs().max()))


def test_smooth_divides_by_powers_of_both_ranges():
    rows, weight = rows_and_weight()
    x, w = (t.abs().max(0).values.double().numpy() for t in (rows, weight))
    found = offers("smooth", rows, weight)
    assert len(found) == len(STRENGTHS)
    for strength, transform in zip(STRENGTHS, found, strict=True):
        close(transform.gain, unit(w ** (1 - strength) / x**strength))
        assert transform.shift is None
        assert set(transform.tensors()) == {"gain", "clip"}


def test_reparameterize_gives_every_channel_one_range_about_zero():
    rows, weight = rows_and_weight()
    (found,) = offers("reparameterize", rows, weight)
    z = found.into(rows)
    torch.testing.assert_close(z.amin(0), -z.amax(0), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(z.amax(0), z.amax().expand(SIZE), rtol=1e-4, atol=1e-5)
    assert float(found.gain.log().mean()) == pytest.approx(0, abs=1e-5)


def test_balance_centres_scales_and_does_both():
    rows, weight = rows_and_weight()
    mean, deviation, spread, norm = measured(rows, weight)
    centred, scaled, both = offers("balance", rows, weight)
    assert centred.gain is scaled.shift is None
    close(centred.shift, mean)
    close(scaled.gain, unit(np.sqrt(norm / spread)))
    close(both.shift, mean)
    close(both.gain, unit(np.sqrt(norm / deviation)))


@pytest.mark.parametrize("seed", range(4))
def test_no_gain_costs_less_than_the_balanced_one(seed):
    rows, weight = rows_and_weight(seed)
    _, deviation, spread, norm = (torch.from_numpy(t) for t in measured(rows, weight))
    _, scaled, both = offers("balance", rows, weight)
    for transform, s in ((scaled, spread), (both, deviation)):

        def cost(gain, s=s):
            return float((gain * s).square().sum() * (norm / gain).square().sum())

        best = cost(transform.gain.double())
        assert best == pytest.approx(float((s * norm).sum()) ** 2, rel=1e-4)
        gen = torch.Generator().manual_seed(seed)
        others = torch.randn(200, SIZE, generator=gen, dtype=torch.float64)
        assert all(cost(transform.gain * (other / 4).exp()) > best for other in others)
        assert cost(torch.ones(SIZE)) > best


def test_rows_of_great_energy_do_not_decide_the_mean():
    rows, weight = rows_and_weight()
    plain = offers("balance", rows, weight)[0].shift
    massive = torch.cat([rows, torch.full((3, SIZE), 1e4)])
    torch.testing.assert_close(
        offers("balance", massive, weight)[0].shift, plain, rtol=0, atol=0.05
    )


def test_a_rotation_spreads_a_channel_over_all():
    rows, weight = rows_and_weight()
    single = torch.eye(SIZE)
    for transform in offers("rotate", rows, weight):
        turned = Transform(None, transform.gain.sign(), (), transform.factors("after"))
        torch.testing.assert_close(turned.into(single).abs(), torch.full((SIZE, SIZE), SIZE**-0.5))
    plain, centred, both = offers("rotate", rows, weight)
    balanced = offers("balance", rows, weight)[2]
    assert plain.shift is None
    assert torch.equal(centred.shift, balanced.shift)
    assert torch.equal(both.gain.abs(), balanced.gain)
    assert {-1.0, 1.0} == set(plain.gain.tolist())
    assert torch.equal(plain.gain, offers("rotate", *rows_and_weight(5))[0].gain)


def test_frequencies_are_those_of_the_patches():
    rows, weight = rows_and_weight()
    (found,) = offers("frequencies", rows, weight)
    assert [len(factor) for factor in found.factors("before")] == list(SHAPE)
    plain = Transform(before=found.factors("before"))
    mean, deviation, _, norm = measured(plain.into(rows), plain.weight_into(weight))
    close(plain.into(found.shift), mean)
    close(found.gain.abs(), unit(np.sqrt(norm / deviation)))


@pytest.mark.parametrize(
    ("family", "size", "shape"),
    [("rotate", 7, None), ("frequencies", 27, (3, 3, 3)), ("frequencies", 12, None)],
)
def test_where_a_family_has_nothing_to_offer(family, size, shape):
    assert offers(family, *rows_and_weight(size=size), shape) == []


NOTHING = {
    "zero": torch.zeros(20, SIZE),
    "constant": torch.full((20, SIZE), 3.0),
    "one row": torch.arange(float(SIZE))[None],
    "a dead channel": torch.ones(20, SIZE).index_fill(1, torch.tensor(2), 0.0),
}


@pytest.mark.parametrize("rows", NOTHING.values(), ids=NOTHING)
@pytest.mark.parametrize("family", FAMILIES)
def test_what_holds_next_to_nothing_is_not_blown_up(family, rows):
    for weight in (torch.zeros(7, SIZE), rows_and_weight()[1]):
        for transform in offers(family, rows, weight):
            assert all(bool(t.isfinite().all()) for t in transform.tensors().values())
            if transform.gain is not None:
                low, high = torch.aminmax(transform.gain.abs())
                assert 0 < low <= high < 1.1e3 * low
