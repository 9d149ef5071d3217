# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Reports made up by hand, each field with a value of its own, and the tiny model calibrated."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from calibrators.minmax import MinMax
from qkit.calibration.install import install
from qkit.calibration.observe import Batch, observe
from qkit.calibration.session import open_session
from qkit.graph.coverage import Coverage, LeftFloat
from qkit.graph.layers import Layer
from qkit.nn.layer import QuantLayer
from qkit.nn.linear import QuantLinear
from qkit.numerics import qparams_from_range
from qkit.pipeline.student import Student, give_points, prepare
from qkit.recipe import Recipe, override
from qkit.recipe.overrides import Overrides
from qkit.report.evaluation import Metric
from qkit.report.layer import BlockReport, Channel, HistogramReport, LayerReport, TensorReport
from qkit.report.model import ModelReport
from qkit.report.space import Space
from qkit.report.trials import Noise, try_weighted
from qkit.spec import Granularity, LayerKind, QuantSpec, Range, Scheme

FOUR, ROWS = QuantSpec(4), QuantSpec(4, True, Granularity.CHANNEL)
BELL = HistogramReport(-1.4, 6.2, tuple(round(4096 * 0.7 ** abs(i - 24)) for i in range(64)))
WEIGHT = TensorReport("weight", 3, "channel", True, BELL, -0.41, 0.31, 0.103, 0.97)
INPUT = TensorReport("input", 4, "tensor", False, BELL, -1.21, 4.46, 0.378, 0.746)
LAYER = LayerReport(
    name="visual.transformer.resblocks.2.mlp.c_fc",
    tower="image",
    kind="linear",
    block=2,
    weight_bits=3,
    act_bits=4,
    operands={"weight": 3, "input": 4},
    weight_sqnr_db=16.7,
    local_sqnr_db=14.3,
    inherited_sqnr_db=18.9,
    cumulative_sqnr_db=12.6,
    made=0.742,
    cosine=0.971,
    clipped=0.0135,
    weights=4096,
    macs=69632,
    tensors=(WEIGHT, INPUT),
    channel=Channel(17, 0.083),
    token_spread=1.66,
    errors=BELL,
    trials={"weight float": 1.94, "input float": 4.47},
)
SPACE = Space(0.9312, 0.9781, 0.0876, 0.643, 0.215, 0.82, 0.79, 0.94)
COVERAGE = Coverage(0.9921, 0.9983, 10_000, 90_000, (LeftFloat("biases", 79, 0, "too small"),))
TOP = {"top1": 0.712, "top5": 0.934}, {"top1": 0.856, "top5": 0.983}
METRIC = Metric("classes:some/where/pets", "classification", *TOP, 0.795, 1000)
REPORT = ModelReport(
    label="W3A4 attn8, mse",
    model="ViT-B-32:openai",
    metrics=(METRIC,),
    embedding_cosine={"image": 0.9623, "text": 0.9887},
    coverage=COVERAGE,
    size={"float_bytes": 8_400_000, "quantized_bytes": 2_100_000},
    timing={"observe calibration data": 6.72},
    calibration={"source": "captions:pairs/calib.csv", "images": 128, "skipped": []},
)


def silent(done: int, **figures: float) -> None:
    """Swallows progress."""


def _factory(base: Any) -> Callable[..., Any]:
    return lambda **changes: replace(base, **changes)


@pytest.fixture(scope="session")
def tensor() -> Callable[..., TensorReport]:
    """A 4-bit input with one scale, with changes."""
    return _factory(INPUT)


@pytest.fixture(scope="session")
def layer() -> Callable[..., LayerReport]:
    """A linear layer of image block 2 that makes most of its error, with changes."""
    return _factory(LAYER)


@pytest.fixture(scope="session")
def sdpa(layer, tensor) -> Callable[..., LayerReport]:
    """An attention core with operands at 8 bits, with changes."""
    roles = ("query", "key", "value", "probs")
    core = layer(
        name="visual.transformer.resblocks.2.attn.sdpa",
        kind="attention",
        weight_bits=None,
        act_bits=8,
        operands=dict.fromkeys(roles, 8),
        weight_sqnr_db=None,
        weights=0,
        tensors=tuple(tensor(role=role, bits=8) for role in roles),
        channel=None,
        token_spread=None,
        trials={"query float": 0.42, "key float": 0.17, "value float": 0.31, "probs float": 5.23},
    )
    return _factory(core)


@pytest.fixture(scope="session")
def floating(layer) -> Callable[..., LayerReport]:
    """A convolution in front of the blocks that stays in float, with changes."""
    conv = layer(
        name="visual.conv1",
        kind="conv",
        block=None,
        weight_bits=None,
        act_bits=None,
        operands={"weight": None, "input": None},
        weight_sqnr_db=None,
        local_sqnr_db=math.inf,
        inherited_sqnr_db=math.inf,
        cumulative_sqnr_db=math.inf,
        made=0.0,
        cosine=1.0,
        clipped=None,
        tensors=(),
        channel=None,
        token_spread=None,
        errors=None,
        trials={},
    )
    return _factory(conv)


@pytest.fixture(scope="session")
def block() -> Callable[..., BlockReport]:
    """A block by index, tower and what it makes, in dB."""

    def make(index: int, local: float = 20.0, tower: str = "image") -> BlockReport:
        return BlockReport(f"{tower}.blocks.{index}", tower, index, local, local - 4.5, 0.95)

    return make


@pytest.fixture(scope="session")
def space() -> Callable[..., Space]:
    """An embedding space compared, with changes."""
    return _factory(SPACE)


@pytest.fixture(scope="session")
def metric() -> Callable[..., Metric]:
    """A classification, with changes."""
    return _factory(METRIC)


@pytest.fixture(scope="session")
def model_report() -> Callable[..., ModelReport]:
    """A report without layers, with changes."""
    return _factory(REPORT)


@pytest.fixture
def batches(pixels, tokens) -> list[Batch]:
    """Two batches for the tiny model, of unlike sizes."""
    return [Batch(pixels, tokens), Batch(pixels.flip(0) * 0.5, tokens[:1])]


@pytest.fixture
def quantize(tiny, batches) -> Callable[[Recipe], Student]:
    """The tiny model calibrated by min-max; ``quantize.seen`` is what calibration saw."""

    def run(recipe: Recipe) -> Student:
        student = prepare(tiny)
        give_points(student, recipe)
        observe(student.model, batches, silent)
        session = open_session(student.model, student.layers)
        install(student.model, MinMax().calibrate(session, silent))
        run.seen = session.seen
        return student

    return run


@pytest.fixture
def calibrated(normal) -> Callable[..., Layer]:
    """A layer with a weight whose grid covers its range, and a share of that of ``x``."""

    def make(
        module: QuantLayer,
        kind: LayerKind,
        x: Tensor,
        weight: QuantSpec | None = ROWS,
        input_: QuantSpec | None = FOUR,
        share: float = 0.8,
    ) -> Layer:
        for parameter in module.parameters():
            parameter.data = normal(*parameter.shape)
        module.requires_grad_(False)
        module.attach("a", Scheme(weight, input_))
        layer = Layer("a", "image", kind, module)
        for point, values in (
            (module.weight_quantizer, module.weight),
            (module.input_quantizer, share * x),
        ):
            if point is not None and not point.spec.dynamic:
                rows = values.movedim(point.axis, 0).flatten(1)
                dims = 1 if point.spec.granularity is Granularity.CHANNEL else (0, 1)
                ends = Range(rows.amin(dims), rows.amax(dims))
                point.set_qparams(qparams_from_range(ends, point.spec))
        return layer

    return make


@pytest.fixture
def tried(calibrated) -> Callable[..., tuple[Layer, Noise]]:
    """A linear layer for ``x``, and what trials find of it."""

    def run(x: Tensor, *specs: QuantSpec | None, share: float = 0.8) -> tuple[Layer, Noise]:
        layer = calibrated(QuantLinear(x.shape[-1], 12), "linear", x, *specs, share=share)
        reach = Range(x.amin((0, 1)), x.amax((0, 1)))
        return layer, try_weighted(layer, x, layer.module(x), reach)

    return run


def bits(number, granularity="tensor"):
    """A recipe with so many bits everywhere."""
    flags = Overrides(bits=number, attn_bits=number, act_granularity=granularity)
    return override(Recipe(), flags)


def features(model, batch):
    """What both towers make of a batch."""
    with torch.no_grad():
        return model.encode_image(batch.images), model.encode_text(batch.texts)
