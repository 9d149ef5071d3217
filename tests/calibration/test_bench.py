# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""The tower run again piece by piece: the stream is the tower's own."""

import pytest
import torch
from torch import nn

from calibrators.minmax import MinMax
from qkit.calibration.bench import Bench
from qkit.calibration.install import install
from qkit.calibration.observe import Batch, observe, set_mode
from qkit.calibration.running import recorded, switched
from qkit.calibration.session import open_session
from qkit.clip.stages import list_stages
from qkit.errors import CalibrationError, QkitWarning
from qkit.graph.layers import list_points
from qkit.graph.stages import Stage
from qkit.nn.tensor_quantizer import Mode

TOWERS = ("image", "text")
SPANS = ("half", "block")


def silent(done):
    """Swallows progress."""


@pytest.fixture
def bench(student, batches):
    """The tiny model with scales at every point, all of them off."""
    observe(student.model, batches, silent)
    install(student.model, MinMax().calibrate(open_session(student.model, student.layers), silent))
    set_mode(student.model, Mode.OFF)
    stages = {
        span: list_stages(student.blocks, student.layers, halves=span == "half") for span in SPANS
    }
    return Bench(student.model, student.layers, stages, lambda n: batches[: n // 2])


def whole(rig, model, quantized):
    """What the tower's own forward hands to the blocks, and what leaves the last."""
    blocks = list(dict.fromkeys(stage.module for stage in rig.stages))
    streams = [[] for _ in range(len(blocks) + 1)]
    handles = [
        block.register_forward_pre_hook(lambda _, args, i=i: streams[i].append(args[0]))
        for i, block in enumerate(blocks)
    ]
    handles.append(blocks[-1].register_forward_hook(lambda _, __, out: streams[-1].append(out)))
    with switched(list_points(model), quantized), torch.no_grad():
        for x in rig.samples:
            rig.encode(x)
    for handle in handles:
        handle.remove()
    return streams


@pytest.mark.parametrize("quantized", [False, True])
@pytest.mark.parametrize("span", SPANS)
def test_stages_one_after_the_other_are_the_tower(bench, student, span, quantized):
    for rig in bench.rigs(span, 6):
        expected = whole(rig, student.model, quantized)
        stream = rig.enter(quantized=quantized)
        assert len(stream) == len(rig.samples) == 3
        together = rig.run(rig.stages, stream, quantized=quantized)
        for start in range(2):
            torch.testing.assert_close(stream, expected[start], rtol=0, atol=0)
            own = [stage for stage in rig.stages if stage.block == start]
            assert len(own) == (2 if span == "half" else 1)
            for stage in own:
                stream = rig.run([stage], stream, quantized=quantized)
        torch.testing.assert_close(stream, expected[2], rtol=0, atol=0)
        torch.testing.assert_close(together, stream, rtol=0, atol=0)


def test_quantized_streams_are_not_the_float_ones(bench):
    for rig in bench.rigs("half", 2):
        exact, rounded = (rig.enter(quantized=quantized)[0] for quantized in (False, True))
        assert not torch.equal(exact, rounded)
        after = [rig.run(rig.stages[:1], [exact], quantized=q)[0] for q in (False, True)]
        assert not torch.equal(*after)


@pytest.mark.parametrize("span", SPANS)
def test_layers_are_inside_or_outside_and_never_both(bench, student, span):
    for rig in bench.rigs(span, 2):
        inside = [layer.name for stage in rig.stages for layer in stage.layers]
        names = inside + [layer.name for layer in rig.outside]
        assert sorted(names) == sorted(x.name for x in student.layers if x.tower == rig.tower)
        assert rig.points.keys() == {
            p.point for x in student.layers if x.tower == rig.tower for p in x.points
        }


def test_what_arrives_at_the_layers(bench, student):
    rig = bench.rigs("half", 4)[0]
    stream = rig.enter(quantized=False)
    after, inputs = rig.layer_inputs(rig.stages[0], stream)
    torch.testing.assert_close(after, rig.run(rig.stages[:1], stream, quantized=False))
    block = rig.stages[0].module
    assert {name.removeprefix(f"{rig.stages[0].name}.") for name in inputs} == {
        "q_proj", "k_proj", "v_proj", "sdpa", "out_proj"
    }  # fmt: skip
    for got, x in zip(inputs[f"{rig.stages[0].name}.q_proj"], stream, strict=True):
        torch.testing.assert_close(got, block.ln_1(x).detach())
    outside = rig.outside_inputs()
    assert list(outside) == ["visual.conv1", "visual.proj"]  # in running order
    torch.testing.assert_close(outside["visual.conv1"], rig.samples)


def test_points_are_left_as_they_were(bench, student):
    points = list_points(student.model)
    points[3].mode, points[3].fired = Mode.QUANTIZE, 7
    before = [(p.mode, p.fired) for p in points]
    with pytest.raises(RuntimeError, match="stop"), switched(points, True):  # noqa: PT012
        assert {p.mode for p in points} == {Mode.QUANTIZE}
        message = "stop"
        raise RuntimeError(message)
    assert [(p.mode, p.fired) for p in points] == before
    rig = bench.rigs("half", 2)[0]
    fired = [p.fired for p in points]
    rig.run(rig.stages, rig.enter(quantized=True), quantized=True)
    assert {p.mode for p in points} == {Mode.OFF}
    assert [p.fired for p in points] == fired


def test_no_hook_stays(bench, student):
    rig = bench.rigs("half", 2)[0]
    rig.layer_inputs(rig.stages[0], rig.enter(quantized=False))
    rig.outside_inputs()
    with pytest.raises(RuntimeError), recorded(student.layers):
        raise RuntimeError
    hooks = [m for m in student.model.modules() if m._forward_hooks or m._forward_pre_hooks]
    assert hooks == []


class Chain(nn.Module):
    """Two blocks; what happens between them is for a test to say."""

    def __init__(self, between=lambda x: x, output=lambda x: x):
        super().__init__()
        self.blocks = nn.ModuleList(nn.Linear(3, 3) for _ in range(2))
        self.between, self.output = between, output

    def encode_image(self, x):
        first, second = self.blocks
        return second(self.between(first(x)))

    encode_text = encode_image

    def rigs(self, batch=None):
        stages = tuple(
            Stage(f"blocks.{i}", "image", i, block, block, lambda x, b=block: self.output(b(x)), ())
            for i, block in enumerate(self.blocks)
        )
        batch = batch or Batch(torch.ones(2, 4, 3), None)
        return Bench(self, (), {"block": stages}, lambda _: [batch]).rigs("block", 1)


def test_blocks_that_follow_each_other_are_stages():
    assert [len(rig.stages) for rig in Chain().rigs()] == [2, 0]


@pytest.mark.parametrize(
    "chain",
    [
        Chain(between=lambda x: x + 1),
        Chain(between=lambda x: x[:, :2]),
        Chain(output=lambda x: (x, None)),
    ],
    ids=["something is added", "tokens are dropped", "a tuple is returned"],
)
def test_blocks_that_do_not_are_left_alone_with_a_warning(chain):
    fact = r"^the blocks of the image tower do not simply follow .* chosen layer by layer\.$"
    with pytest.warns(QkitWarning, match=fact):
        rigs = chain.rigs()
    assert [rig.stages for rig in rigs] == [(), ()]


def test_a_block_that_is_bypassed_breaks_the_chain():
    chain = Chain()
    chain.encode_image = lambda x: chain.blocks[1](x)
    with pytest.warns(QkitWarning, match="image tower"):
        assert chain.rigs()[0].stages == ()


def test_a_tower_without_samples():
    with pytest.raises(CalibrationError, match=r"none of the first .* the image tower. Draw more"):
        Chain().rigs(Batch(None, torch.ones(2, 4, 3)))


def test_a_tower_without_blocks_needs_no_warning():
    assert Chain().rigs()[1].stages == ()  # one would be an error here


def test_a_merged_session_keeps_its_bench(bench, student, batches):
    observe(student.model, batches, silent)
    session = open_session(student.model, student.layers, bench)
    assert session.merge(session).bench is bench
