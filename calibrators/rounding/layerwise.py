# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Weights rounded layer by layer, each on the inputs that the quantized model really has."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from calibrators.rounding.arrived import Moments, moments, walk
from calibrators.rounding.solver import choose_scale, damped, refine
from qkit.calibration.bench import Bench, Stream
from qkit.graph.layers import Layer
from qkit.grids.weights import weight_values
from qkit.progress import Advance
from qkit.spec import PointId, QParams, QuantSpec, RoundedWeight, Rounding


@dataclass(frozen=True)
class Layerwise(ABC):
    """Base of roundings that know a layer by its weight and by moments of its input.

    Every layer sees what the quantized layers before it leave, and counts its inputs by the inverse
    of their energy: a few massive tokens would otherwise stand for all.

    Attributes:
        samples: images, and texts, whose inputs are looked at.
        damping: added to the diagonal of the inputs' second moment, in parts of its mean.
        search: choose scales anew for those inputs; otherwise the calibrator's stay.
        sweeps: over all columns afterwards, each set anew given all others.
        ridge: how firmly a weight is held before it is rounded, in parts of the same mean, while
            its least squares fit makes good what rounding its input cost (ERQ, arXiv 2407.06794);
            None leaves it as it is.
        bias: add what the output's mean lacks to the bias (arXiv 1906.04721, section 4.2).
    """

    samples: int = 128
    damping: float = 0.01
    search: bool = True
    sweeps: int = 4
    ridge: float | None = None
    bias: bool = False

    def __post_init__(self) -> None:
        if self.samples < 1:
            message = f"samples = {self.samples} is not possible. Use 1 or more."
            raise ValueError(message)
        if self.sweeps < 0:
            message = f"sweeps = {self.sweeps} is not possible. Use 0 or more."
            raise ValueError(message)
        for name in ("damping", "ridge"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                message = f"{name} = {value} is not possible. Use a positive number."
                raise ValueError(message)

    @abstractmethod
    def choose(self, weight: Tensor, moment: Tensor, q: QParams, spec: QuantSpec) -> Tensor:
        """Choose integers ``(out, in)``, int16, of little error of the output.

        Args:
            weight: ``(out, in)``.
            moment: ``(in, in)``, second moment of the inputs, damped.
            q: scale and zero point, ``()`` or ``(out,)``.
            spec: how the weight is rounded.
        """

    def fit(
        self, weight: Tensor, moment: Tensor, q: QParams, spec: QuantSpec
    ) -> tuple[Tensor, QParams]:
        """Integers as ``choose`` and sweeps find them, and the scale that goes with them."""
        levels = self.choose(weight, moment, q, spec)
        for _ in range(self.sweeps):
            levels, fitted = refine(weight, levels, moment, q, spec)
            q = fitted if self.search else q
        return levels, q

    def round(self, bench: Bench, advance: Advance) -> Mapping[PointId, RoundedWeight]:
        """Integers for every weight whose input is a matrix; the model's points have scales."""
        found: dict[PointId, RoundedWeight] = {}
        for rig in bench.rigs("half", self.samples):
            for group, arrived in walk(rig):
                found |= self._group(group, arrived)
                advance(1)
        return found

    def _group(self, group: Sequence[Layer], arrived: Stream) -> dict[PointId, RoundedWeight]:
        """Round all readers of one input and leave them rounded."""
        layers = [layer for layer in group if layer.weight_quantizer is not None]
        seen = moments(layers[0], arrived) if layers else None
        return {} if seen is None else dict(self._layer(layer, seen) for layer in layers)

    def _layer(self, layer: Layer, seen: Moments) -> tuple[PointId, RoundedWeight]:
        point, weight = layer.weight_quantizer, layer.weight_rows
        assert point is not None  # only layers with one come here
        moment = damped(seen.own, self.damping)
        wanted = weight if self.ridge is None else compensated(weight, seen, self.ridge)
        q = choose_scale(wanted, moment, point.spec) if self.search else point.qparams
        levels, q = self.fit(wanted, moment, q, point.spec)
        lacks = None
        if self.bias:
            rounded = weight_values(levels, q, point.spec, 0)
            lacks = weight @ seen.mean - rounded @ seen.own_mean
        rounding = Rounding(levels.view(layer.weight_shape), lacks)
        point.set_qparams(q)
        point.set_rounding(rounding)
        return point.point, RoundedWeight(q, rounding)


def compensated(weight: Tensor, seen: Moments, ridge: float) -> Tensor:
    """The weight ``(out, in)`` whose product with rounded inputs is nearest to the float product.

    argmin over V of E |W x - V r|^2 + lambda |V - W|^2 is W (E x r^T + lambda) (E r r^T +
    lambda)^-1, with lambda in parts of the mean diagonal of E r r^T.
    """
    held = damped(seen.own, ridge).double()
    wanted = weight.double() @ (seen.cross - seen.own + held)
    found: Tensor = torch.linalg.solve(held, wanted, left=False)
    return found.to(weight.dtype)
