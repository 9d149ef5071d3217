# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""The plug-in contract: a calibrator turns statistics into scales."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from qkit.calibration.bench import Bench
from qkit.calibration.memory import Memory
from qkit.calibration.session import CalibrationSession
from qkit.grids.fit import fit, sample_of
from qkit.numerics import qparams_from_range, sqnr_db
from qkit.progress import Advance
from qkit.spec import Affine, PointId, QParams, QuantSpec, Range, RoundedWeight, TensorStats
from qkit.transform import Transform


@runtime_checkable
class Calibrator(Protocol):
    """Chooses scale and zero point for every point of a session.

    Implement it as a frozen dataclass: its fields are its options, as recipes and flags name them,
    and the first line of its docstring is what ``qkit calibrators`` prints.
    """

    def calibrate(self, session: CalibrationSession, advance: Advance) -> Mapping[PointId, QParams]:
        """Return qparams for exactly ``session.points``, calling ``advance(1)`` after each."""
        ...


@runtime_checkable
class AffineLearner(Calibrator, Protocol):
    """A calibrator that may learn LayerNorms along with scales, see ``Annotated.affines``."""

    @property
    def learns_affines(self) -> bool:
        """Whether it does with these options: what would undo it is refused before any work."""
        ...


class TransformMethod(Protocol):
    """Chooses the coordinates in which inputs, and the weights that read them, are rounded.

    Implement it as a frozen dataclass, as a calibrator.
    """

    def choose(self, bench: Bench, advance: Advance) -> Mapping[PointId, Transform]:
        """Coordinates by the input's point; inputs that are left out keep their own."""
        ...


class RoundingMethod(Protocol):
    """Chooses the integers of weights of a model all of whose points have scales.

    Implement it as a frozen dataclass, as a calibrator.
    """

    def round(self, bench: Bench, advance: Advance) -> Mapping[PointId, RoundedWeight]:
        """Scale and integers by the weight's point; weights left out keep the nearest."""
        ...


class ReconstructionMethod(Protocol):
    """Learns the weights of a quantized model from its float self.

    Implement it as a frozen dataclass, as a calibrator.
    """

    def work(self, bench: Bench) -> int:
        """What ``reconstruct`` will count up to."""
        ...

    def reconstruct(
        self, bench: Bench, memory: Memory, advance: Advance
    ) -> Mapping[PointId, RoundedWeight]:
        """Scale, integers and correction by the weight's point; others stay as they are.

        What takes long is kept in ``memory`` as soon as it is done, and recalled from there.
        """
        ...


@dataclass(frozen=True, slots=True)
class StageNote:
    """Half a residual block, or a whole one, as a calibrator searched it.

    Attributes:
        name: path in the swapped model; the halves of a block end with "attn" and "mlp".
        tower: "image" or "text".
        block: index of its block within the tower.
        layers: names of the layers inside.
        dependency: of the next stage on this one, a conditional entropy, nats; None for a tower's
            last.
        group: number of the stages that were searched together, from 0 in each tower.
        start: squared error at the end of the group with every layer's own best ranges, relative
            to the float values there, weighted as the calibrator weighs it.
        error: the same with the ranges that the search chose.
    """

    name: str
    tower: str
    block: int
    layers: tuple[str, ...]
    dependency: float | None
    group: int
    start: float
    error: float

    @property
    def gain_db(self) -> float:
        """What the search of its group gained, dB."""
        return 0.0 if self.start == self.error else sqnr_db(self.start, self.error)


class Annotated(dict[PointId, QParams]):
    """Qparams together with how they came about, for the report.

    Attributes:
        stages: one note a stage, in running order.
        threshold: what the average dependency within a group had to exceed, by tower.
        affines: changes of LayerNorms that were learned, by the input point they feed.
    """

    def __init__(
        self,
        chosen: Mapping[PointId, QParams],
        stages: Sequence[StageNote],
        threshold: Mapping[str, float],
        affines: Mapping[PointId, Affine] | None = None,
    ) -> None:
        super().__init__(chosen)
        self.stages = tuple(stages)
        self.threshold = dict(threshold)
        self.affines = dict(affines or {})


def affines_of(chosen: Mapping[PointId, QParams]) -> Mapping[PointId, Affine]:
    """The learned affines that come with scales, if any do."""
    return chosen.affines if isinstance(chosen, Annotated) else {}


class TensorCalibrator(ABC):
    """Base of calibrators that look at one tensor at a time: they only choose a range."""

    @abstractmethod
    def choose_range(self, stats: TensorStats, spec: QuantSpec) -> Range:
        """Choose where to clip.

        Args:
            stats: what was seen; ``values`` for a weight, ``histogram`` for an activation.
            spec: how the tensor will be quantized.

        Returns:
            a range of the shape of ``stats.min_val``: ``()`` or ``(channels,)``.
        """

    def calibrate(self, session: CalibrationSession, advance: Advance) -> Mapping[PointId, QParams]:
        """Choose a range for every point of ``session``.

        Of a grid that is not uniform the range gives the upper end; its integer is what rounds the
        histogram with the least squared error.
        """
        chosen = {}
        for point, spec in session.points.items():
            stats = session.stats(point)
            range_ = self.choose_range(stats, spec)
            if spec.uniform or stats.histogram is None:
                chosen[point] = qparams_from_range(range_, spec)
            else:
                chosen[point], _ = fit(range_.max, spec, sample_of(stats.histogram))
            advance(1)
        return chosen
