# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Residual blocks cut in two: the halves of every architecture are the block."""

import pytest
import torch
from open_clip.transformer import ResidualAttentionBlock
from torch import nn

from calibrators.minmax import MinMax
from qkit.calibration.bench import Bench
from qkit.calibration.install import install
from qkit.calibration.observe import Batch, observe, set_mode
from qkit.calibration.session import open_session
from qkit.clip.rebuild import rebuild
from qkit.clip.stages import list_stages
from qkit.graph.blocks import Block
from qkit.graph.layers import list_points
from qkit.nn.tensor_quantizer import Mode
from qkit.pipeline.student import give_points, prepare
from qkit.recipe import Recipe

VISION = {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 16}
TEXT = {"context_length": 8, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 2}
SCALES = {"ls_init_value": 0.1}
CUSTOM = dict.fromkeys(
    ("qk_norm", "scale_heads", "scale_attn_inner", "scale_attn", "scale_fc"), True
)
TIMM = {
    "timm_model_name": "test_vit2",
    "timm_model_pretrained": False,
    "timm_pool": "",
    "image_size": 32,
}
MODELS = {
    "vit": {"vision_cfg": VISION, "text_cfg": TEXT},
    "layer scale": {"vision_cfg": VISION | SCALES, "text_cfg": TEXT | SCALES},
    "custom": {
        "vision_cfg": VISION | CUSTOM | SCALES,
        "text_cfg": TEXT | CUSTOM | SCALES,
        "custom_text": True,
    },
    "pad mask": {
        "vision_cfg": VISION,
        "text_cfg": TEXT | {"embed_cls": True, "pad_id": 0},
        "custom_text": True,
    },
    "timm": {"vision_cfg": TIMM, "text_cfg": TEXT},
}


def silent(done):
    """Swallows progress."""


@pytest.fixture(scope="module", params=MODELS)
def student(request):
    """Each architecture, stirred and calibrated, all points off."""
    clip = rebuild(request.param, {"model_cfg": {"embed_dim": 16, **MODELS[request.param]}})
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in clip.model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) / 20)
    student = prepare(clip, copy=False)
    give_points(student, Recipe())
    observe(student.model, batches(student), silent)
    install(student.model, MinMax().calibrate(open_session(student.model, student.layers), silent))
    set_mode(student.model, Mode.OFF)
    return student


def batches(student):
    """Two batches of different images and texts of different lengths."""
    images = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    texts = student.clip.tokenizer(["a", "two red cats", "the sky above", "four"])
    return [Batch(images[i : i + 2], texts[i : i + 2]) for i in (0, 2)]


def pass_through(rig, model, mode):
    """What a whole forward brings to every stage, and what leaves the last."""
    found = [[] for _ in range(len(rig.stages) + 1)]
    handles = [
        stage.entry.register_forward_pre_hook(lambda _, args, i=i: found[i].append(args[0]))
        for i, stage in enumerate(rig.stages)
    ]
    handles.append(
        rig.stages[-1].module.register_forward_hook(lambda _, __, out: found[-1].append(out))
    )
    set_mode(model, mode)
    with torch.no_grad():
        for x in rig.samples:
            rig.encode(x)
    set_mode(model, Mode.OFF)
    for handle in handles:
        handle.remove()
    return found


def cut(student, halves):
    return list_stages(student.blocks, student.layers, halves=halves)


def test_halves_share_the_layers_of_their_block_among_them(student):
    halves = cut(student, True)
    whole = cut(student, False)
    assert len(halves) == 2 * len(whole) == 2 * len(student.blocks)
    for block, first, second in zip(whole, halves[::2], halves[1::2], strict=True):
        assert [first.name, second.name] == [f"{block.name}.attn", f"{block.name}.mlp"]
        assert {first.module, second.module} == {block.module}
        names = [layer.name for layer in first.layers + second.layers]
        assert sorted(names) == sorted(layer.name for layer in block.layers)
        assert len(set(names)) == len(names)
        assert all(".attn." in layer.name for layer in first.layers)
        assert [layer.kind for layer in second.layers] == ["linear", "linear"]
        assert not set(first.points) & set(second.points)
        assert set(first.points + second.points) == set(block.points)
        assert (first.entry, block.entry) == (block.module, block.module)


@pytest.mark.parametrize("mode", [Mode.OFF, Mode.QUANTIZE])
@pytest.mark.parametrize("halves", [False, True])
def test_stages_in_turn_are_the_towers_own_stream(student, halves, mode):
    own = batches(student)
    stages = cut(student, halves)
    for rig in Bench(student.model, student.layers, {"span": stages}, lambda _: own).rigs(
        "span", 4
    ):
        assert rig.stages == tuple(s for s in stages if s.tower == rig.tower)
        *arrived, left = pass_through(rig, student.model, mode)
        quantized = mode is Mode.QUANTIZE
        stream = rig.enter(quantized=quantized)
        for stage, expected in zip(rig.stages, arrived, strict=True):
            torch.testing.assert_close(stream, expected, rtol=0, atol=0)
            stream = rig.run([stage], stream, quantized=quantized)
        torch.testing.assert_close(stream, left, rtol=0, atol=0)


def test_every_point_inside_changes_the_end_of_its_stage(student):
    """The halves of a class that is cut wrongly would leave a point out."""
    own = batches(student)[:1]
    bench = Bench(student.model, student.layers, {"half": cut(student, True)}, lambda _: own)
    for rig in bench.rigs("half", 2):
        stream = rig.enter(quantized=False)
        for stage in rig.stages[:2]:
            points = [p for p in stage.points if p.spec.bits == 8]
            fired = [p.fired for p in points]
            set_mode(student.model, Mode.QUANTIZE)
            rig.step(stage, 0, stream[0])
            set_mode(student.model, Mode.OFF)
            assert all(p.fired > n for p, n in zip(points, fired, strict=True))
            stream = rig.run([stage], stream, quantized=False)
    assert {p.mode for p in list_points(student.model)} == {Mode.OFF}


@pytest.mark.parametrize(
    "block", [nn.Sequential(nn.Linear(2, 2)), ResidualAttentionBlock(4, 1, is_cross_attention=True)]
)
def test_an_unknown_block_and_one_with_two_inputs_stay_whole(block):
    (stage,) = list_stages([Block("blocks.0", "text", 0, block)], (), halves=True)
    assert (stage.name, stage.entry, stage.function) == ("blocks.0", block, block)
