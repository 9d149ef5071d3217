# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""What towers learn by: the embedding's error, and that of the streams behind the blocks."""

from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from calibrators.reconstruction import objectives
from calibrators.reconstruction.objectives import TowerError, ended_tokens, stream_error
from calibrators.reconstruction.passage import Passage


def draw(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@given(seed=st.integers(0, 99), factor=st.floats(0.1, 50), shift=st.floats(-5, 5))
def test_a_stream_s_error_knows_no_factor_and_no_shift_of_a_token(seed, factor, shift):
    wanted = draw(2, 5, 16, seed=seed)
    found = wanted + 0.1 * draw(2, 5, 16, seed=seed + 100)
    moved = found.clone()
    moved[1, 3] = factor * moved[1, 3] + shift
    plain = stream_error(found, wanted)
    torch.testing.assert_close(stream_error(moved, wanted), plain, rtol=2e-2, atol=1e-4)
    assert 0 < plain < 0.1


def test_a_stream_s_error_is_twice_what_correlation_lacks():
    found, wanted = draw(3, 4, 32), draw(3, 4, 32, seed=1)
    pairs = torch.stack([found.flatten(0, 1), wanted.flatten(0, 1)], dim=1)
    expected = sum(2 * (1 - torch.corrcoef(pair)[0, 1]) for pair in pairs) / len(pairs)
    torch.testing.assert_close(stream_error(found, wanted), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("turned", [False, True])
def test_tokens_behind_the_end_do_not_count(turned):
    tokens = torch.tensor([[5, 0, 7, 0, 0], [3, 2, 1, 9, 4]])  # a zero within a text is a token
    ended = ended_tokens(tokens)
    assert ended.tolist() == [[False, False, False, True, True], [False] * 5]
    found, wanted = draw(2, 5, 8), draw(2, 5, 8, seed=1)
    kept = stream_error(found[~ended][None], wanted[~ended][None])
    found[0, 3:] += 100 * draw(8, seed=2)
    if turned:
        found, wanted = found.transpose(0, 1), wanted.transpose(0, 1)
    torch.testing.assert_close(stream_error(found, wanted, ended), kept)


def test_where_a_tower_adds_tokens_of_its_own_all_count():
    ended = ended_tokens(torch.tensor([[5, 0, 7, 0, 0], [3, 2, 1, 9, 4]]))
    found, wanted = draw(2, 6, 8), draw(2, 6, 8, seed=1)
    assert torch.equal(stream_error(found, wanted, ended), stream_error(found, wanted))


@pytest.fixture
def error(monkeypatch):
    """A tower's error whose passages are made up: the float one's, and the tower's own."""

    def error(found, wanted, samples, **options):
        monkeypatch.setattr(objectives, "passage", lambda rig, x: found)
        monkeypatch.setattr(objectives, "float_passage", lambda rig, x: wanted)
        others = torch.nn.functional.normalize(draw(6, 4, seed=9), dim=-1)
        given = {"others": others, "scale": 10.0, "distance": 3.0, "streams": 2.0, **options}
        return float(TowerError(SimpleNamespace(), lambda number: samples, **given)(0))

    return error


def made_up(seed):
    embedding = torch.nn.functional.normalize(draw(2, 4, seed=seed), dim=-1)
    return Passage([draw(2, 5, 8, seed=seed + s) for s in (20, 40)], embedding)


def test_a_tower_s_error_adds_up_its_parts(error):
    found, wanted, pixels = made_up(1), made_up(2), draw(2, 3, 8, 8)
    parts = {"distance": 0.0, "streams": 0.0}
    divergence = error(found, wanted, pixels, **parts)
    cosine = error(found, wanted, pixels, **{**parts, "distance": 1.0}) - divergence
    lacks = 1 - (found.embedding * wanted.embedding).sum(-1).mean()
    assert cosine == pytest.approx(float(lacks), rel=1e-4)
    streams = sum(stream_error(a, b) for a, b in zip(found.ends, wanted.ends, strict=True)) / 2
    total = divergence + 3 * cosine + 2 * float(streams)
    assert error(found, wanted, pixels) == pytest.approx(total, rel=1e-4)
    assert error(wanted, wanted, pixels) == pytest.approx(0, abs=1e-5)


def test_without_blocks_that_follow_each_other_the_embedding_is_left(error):
    found, wanted = (Passage([], made_up(seed).embedding) for seed in (1, 2))
    pixels = draw(2, 3, 8, 8)
    assert error(found, wanted, pixels) == error(made_up(1), made_up(2), pixels, streams=0.0) > 0


def test_texts_count_up_to_their_ends(error):
    found, wanted = made_up(1), made_up(2)
    tokens = torch.tensor([[5, 0, 7, 0, 0], [3, 2, 1, 9, 4]])
    before = error(found, wanted, tokens)
    found.ends[1][0, 3:] += 100
    found.ends[0][0, 3:] = 7 * draw(2, 8, seed=5)
    assert error(found, wanted, tokens) == pytest.approx(before)
    found.ends[1][0, 2] = draw(8, seed=6)
    assert error(found, wanted, tokens) != pytest.approx(before)
