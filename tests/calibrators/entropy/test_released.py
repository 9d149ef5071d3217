# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""The comparison mode that does what Q-VLM's public code does, its defects included."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from calibrators.entropy import Entropy
from calibrators.entropy.proxies import Proxies, ded, entropy, gate
from calibrators.entropy.released import Walk, released, shrunk, widened
from calibrators.minmax import MinMax
from qkit.calibration.bench import Bench
from qkit.calibration.install import install
from qkit.calibration.observe import Batch, observe, set_mode
from qkit.calibration.session import open_session
from qkit.clip.stages import list_stages
from qkit.nn.tensor_quantizer import Mode
from qkit.numerics import fake_quantize, make_grid, qparams_from_range
from qkit.pipeline.student import give_points, prepare
from qkit.recipe import Recipe, override
from qkit.recipe.overrides import Overrides
from qkit.spec import Granularity, PointId, QuantSpec, Range

CHANNEL = QuantSpec(4, granularity=Granularity.CHANNEL)
BLOCKS = "visual.transformer.resblocks"
FIRST = PointId(f"{BLOCKS}.0.attn", "input")
LATE = PointId(f"{BLOCKS}.1.attn.out_proj", "input")


def silent(done, **figures):
    """Swallows progress."""


@pytest.fixture
def batches(tiny):
    """Ten images and ten texts, of different lengths, three at a time."""
    images = torch.randn(10, 3, 32, 32, generator=torch.Generator().manual_seed(5))
    texts = tiny.tokenizer(["thing " * n for n in range(1, 11)])
    return [Batch(images[i : i + 3], texts[i : i + 3]) for i in range(0, 10, 3)]


@pytest.fixture
def session_of(tiny, batches):
    """The student and the session of a recipe of 4 bits with some things changed."""

    def make(**changes):
        student = prepare(tiny)
        give_points(student, override(Recipe(), Overrides(**{"bits": 4} | changes)))
        observe(student.model, batches, silent)
        stages = {
            span: list_stages(student.blocks, student.layers, halves=span == "half")
            for span in ("half", "block")
        }
        bench = Bench(student.model, student.layers, stages, lambda samples: batches)
        return student, open_session(student.model, student.layers, bench)

    return make


def l1(x):
    return x / np.maximum(x.sum(axis=1, keepdims=True), 1e-12)


def test_the_entropy_is_that_of_magnitudes_of_unit_length(normal):
    x = normal(2, 5, 3)
    a = np.abs(x.double().numpy())
    a = a / np.sqrt((a**2).sum(axis=1, keepdims=True))
    assert entropy(x) == pytest.approx(-(a * np.log(a + 1e-7)).sum(axis=1).mean(), rel=1e-5)


def test_the_proxy_in_between_is_that_of_the_public_code(normal):
    x, y = normal(2, 5, 3), normal(2, 5, 3)
    p, q = (l1(np.abs(t.double().numpy())) for t in (x, y))
    joint, given = l1(p * q), l1(q / (p + 1e-5))
    expected = -(joint * np.log(given + 1e-5)).sum(axis=1).mean()
    assert ded(x, y) == pytest.approx(expected, rel=1e-5)


def test_channels_of_zeros_count_nothing():
    assert entropy(torch.zeros(1, 4, 2)) == ded(torch.zeros(1, 4, 2), torch.zeros(1, 4, 2)) == 0


@pytest.mark.parametrize(("tokens", "reported"), [(64, 13), (300, 39), (638, 64)])
def test_the_entropy_grows_with_the_number_of_tokens(normal, tokens, reported):
    found = entropy(normal(1, tokens, 256))
    assert found == pytest.approx(reported, rel=0.05)
    assert found > 2 * np.log(tokens)  # more than any distribution over them has


def test_a_layer_takes_its_first_sample():
    assert gate([9.0, 1.0], 2, 2, seen=False)
    assert not gate([9.0, 1.0], 2, 2, seen=True)


def test_the_gate_compares_the_layer_before_with_the_mean():
    assert gate([1.0, 9.0], 2, 2, seen=True)
    assert gate([2.0, 2.0], 2, 2, seen=True)
    assert not gate([9.0, 2.0, 5.0], 2, 2, seen=True)


def test_every_third_block_is_always_open():
    blocks = [block for block in range(1, 9) if gate([9.0, 1.0], block, 1, seen=True)]
    assert blocks == [1, 4, 7]


def test_the_first_layer_of_all_is_open():
    assert gate([], 1, 1, seen=True)
    assert gate([], 2, 1, seen=True)  # block 1 is left in float


def test_ends_of_a_block_and_layers_between_have_proxies_of_their_own(normal):
    x, y, z, wide = normal(1, 9, 4), normal(1, 9, 4), normal(1, 9, 4), normal(1, 9, 8)
    proxies = Proxies({1: 4, 2: 1, 3: 3})
    for block, arrived in ((1, x), (1, y), (1, z), (1, wide), (2, x), (3, x), (3, wide), (3, y)):
        proxies.add(block, arrived)
    ends = [entropy(t) for t in (wide, x, x, wide, y)]
    assert proxies.values == [entropy(x), ded(x, y), ded(y, z), *ends]


def test_the_sequence_of_proxies_opens_the_next_layer(normal):
    proxies = Proxies({2: 3})
    opened = []
    for x in (normal(1, 60, 4), normal(1, 60, 4), normal(1, 60, 4)):
        opened.append(proxies.open(2, seen=True))
        proxies.add(2, x)
    assert proxies.values[1] < proxies.values[0]  # of unlike size, so the place decides
    assert opened == [True, True, False]


def test_ranges_grow_channel_by_channel():
    first = widened(None, torch.tensor([[[1.0, -2.0], [3.0, 0.0]]]), CHANNEL, -1)
    assert [t.tolist() for t in first] == [[1.0, -2.0], [3.0, 0.0]]
    both = widened(first, torch.tensor([[[2.0, -5.0]]]), CHANNEL, -1)
    assert [t.tolist() for t in both] == [[1.0, -5.0], [3.0, 0.0]]
    whole = widened(None, torch.tensor([[[1.0, -2.0], [3.0, 0.0]]]), QuantSpec(4), -1)
    assert [float(t) for t in whole] == [-2.0, 3.0]


@pytest.mark.parametrize("spec", [QuantSpec(4), CHANNEL, QuantSpec(3, symmetric=True)])
@pytest.mark.parametrize("outlier", [0.0, 6.0, 40.0])
def test_ranges_shrink_by_the_best_of_seven_factors(normal, spec, outlier):
    x = normal(1, 40, 4)
    x[0, 0, 0] += outlier
    range_ = widened(None, x, spec, -1)
    errors = []
    for tenths in range(10, 3, -1):
        q = qparams_from_range(Range(*(end * tenths / 10 for end in range_)), spec)
        off = fake_quantize(x, make_grid(q, spec, -1, 3)) - x
        errors.append((off.abs().sqrt().mean().item(), q))
    least = min(errors, key=lambda pair: pair[0])[1]
    torch.testing.assert_close(shrunk(x, range_, spec, -1).scale, least.scale)


def test_a_range_of_zero_width_still_has_a_scale():
    zeros = torch.zeros(1, 3, 2)
    q = shrunk(zeros, widened(None, zeros, CHANNEL, -1), CHANNEL, -1)
    assert bool((q.scale > 0).all())


@pytest.mark.parametrize("granularity", ["tensor", "channel", "token"])
def test_every_point_gets_a_scale_the_same_every_time(session_of, granularity, pixels):
    student, session = session_of(act_granularity=granularity)
    steps = []
    calibrator = Entropy(mode="released")
    chosen = calibrator.calibrate(session, lambda done: steps.append(done))
    again = replace(calibrator, span="block").calibrate(session, silent)
    assert chosen.keys() == session.points.keys()
    assert sum(steps) == len(chosen)
    for point, q in chosen.items():
        assert bool((torch.isfinite(q.scale) & (q.scale > 0)).all())
        assert all(map(torch.equal, q, again[point]))
    install(student.model, chosen)
    assert bool(torch.isfinite(student.model.encode_image(pixels)).all())


def test_only_layer_inputs_differ_from_the_full_range(session_of):
    _, session = session_of()
    chosen = Entropy(mode="released").calibrate(session, silent)
    full = MinMax().calibrate(session, silent)
    differ = {point for point in full if not torch.equal(chosen[point].scale, full[point].scale)}
    assert differ
    assert all(point.role == "input" and ".resblocks." in point.module for point in differ)


def test_statistics_alone_give_the_full_range(session_of):
    _, session = session_of()
    chosen = Entropy(mode="released").calibrate(replace(session, bench=None), silent)
    full = MinMax().calibrate(session, silent)
    assert all(torch.equal(chosen[point].scale, full[point].scale) for point in full)


def test_layers_see_inputs_that_are_already_rounded(session_of, batches):
    """The range is that of what arrives, which is not what arrives in the float tower."""
    student, session = session_of()
    rig = session.bench.rigs("half", 10)[0]
    released(rig, session)
    singles = [image for batch in batches for image in batch.images.split(1)]
    walk = Walk(replace(rig, samples=singles[:1], _calls=[]))
    arrived = []
    handle = rig.points[LATE].register_forward_pre_hook(lambda _, args: arrived.append(args[0]))
    walk.run()
    handle.remove()
    assert len(arrived) == 2  # one sample to gather from, the same to shrink on
    assert walk.ranges[LATE] == Range(arrived[0].min(), arrived[0].max())
    set_mode(student.model, Mode.OFF)
    handle = rig.points[LATE].register_forward_pre_hook(lambda _, args: arrived.append(args[0]))
    student.model.encode_image(singles[0])
    handle.remove()
    assert not torch.allclose(arrived[0], arrived[-1])


def test_a_closed_gate_keeps_the_old_range(session_of, monkeypatch):
    _, session = session_of()
    rig = session.bench.rigs("half", 10)[0]
    released(rig, session)
    singles = [image for batch in rig.samples for image in batch.split(1)]
    ranges = {}
    for closed in (False, True):
        if closed:
            monkeypatch.setattr(Proxies, "open", lambda self, block, *, seen: not seen)
        walk = Walk(replace(rig, samples=singles, _calls=[]))
        walk.run()
        ranges[closed] = walk.ranges[FIRST]
    assert ranges[True].min > ranges[False].min
    assert ranges[True].max < ranges[False].max


def test_an_unknown_mode_is_refused():
    fact = r"^mode = 'public'\. Use one of paper, released\."
    with pytest.raises(ValueError, match=fact):
        Entropy(mode="public")
