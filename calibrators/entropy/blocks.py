# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Search the blocks of a tower one after the other, each on what the quantized ones before give."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from calibrators.entropy.candidates import candidates
from calibrators.entropy.search import Error, Found
from calibrators.entropy.survey import Survey
from calibrators.entropy.trial import Trial
from qkit.calibration.bench import Rig, Stream
from qkit.calibration.importance import Importance
from qkit.calibration.protocol import StageNote
from qkit.calibration.running import switched
from qkit.calibration.session import CalibrationSession
from qkit.graph.stages import Stage
from qkit.spec import PointId, QParams


@dataclass(frozen=True, slots=True)
class Best:
    """What the search of one block found.

    Attributes:
        block: numbers of its stages in the tower.
        chosen: scales of its points; they are installed.
        start: error with every layer's own best scales, relative to the float stream.
        error: error with the chosen ones.
    """

    block: range
    chosen: dict[PointId, QParams]
    start: float
    error: float


@dataclass(slots=True)
class BlockSearch:
    """Walks through a tower with the float and the quantized stream side by side.

    Attributes:
        rig: the tower, every layer's own best scales installed.
        session: statistics of its points.
        survey: what is known of the tower.
        percentiles: shares of a tensor's values to try as its range.
        factors: multiples of a layer's own best scale to try.
        wide: search points of more bits than the block's narrowest, too.
        race: drop a combination that is behind the best after any batch of samples.
        search: finds the best combination.
    """

    rig: Rig
    session: CalibrationSession
    survey: Survey
    percentiles: Sequence[float]
    factors: Sequence[float]
    wide: bool
    race: bool
    search: Callable[[Sequence[int], Error], Found]
    _float: Stream = field(init=False)
    _quantized: Stream = field(init=False)

    def __post_init__(self) -> None:
        self._float = self.rig.enter(quantized=False)
        self._quantized = self.rig.enter(quantized=True)

    def skip(self, count: int) -> None:
        """Leave the first ``count`` stages with their own best scales and begin after them."""
        stages = self.rig.stages[:count]
        self._float = self.rig.run(stages, self._float, quantized=False)
        self._quantized = self.rig.run(stages, self._quantized, quantized=True)

    def run(self, block: range) -> Best:
        """Search the next block, stages ``block`` of the tower."""
        stages = self.rig.stages[block.start : block.stop]
        target = self.rig.run(stages, self._float, quantized=False)
        importance = self.survey.importances[block.stop - 1]
        options = self._options(stages)
        trial = Trial(
            self.rig, stages, options, self._quantized, target, importance, race=self.race
        )
        with switched([p for stage in stages for p in stage.points], True):
            found = self.search(trial.counts, trial.error)
            trial.install(found.choice)
        self._quantized = self.rig.run(stages, self._quantized, quantized=True)
        self._float = target
        energy = _energy(importance, target)
        picked = zip(trial.points, trial.options, found.choice, strict=True)
        chosen = {point: option[index] for point, option, index in picked}
        return Best(block, chosen, found.start / energy, found.error / energy)

    def _options(self, stages: Sequence[Stage]) -> dict[PointId, list[QParams]]:
        """Candidates of the points with the fewest bits: only there is much to be gained."""
        points = [p for stage in stages for p in stage.points if p.spec.uniform]
        static = [p for p in points if p.point in self.session.points]
        least = min((p.spec.bits for p in static), default=0)
        searched = (p for p in static if self.wide or p.spec.bits == least)
        return {
            p.point: candidates(
                p.qparams,
                self.session.stats(p.point),
                p.spec,
                self.percentiles,
                self.factors,
            )
            for p in searched
        }


def _energy(importance: Importance, stream: Stream) -> float:
    return sum(importance.error(number, x) for number, x in enumerate(stream)) or 1.0


def notes(rig: Rig, survey: Survey, group: int, best: Best) -> list[StageNote]:
    """What is told of every stage of the block that ``best`` was found for."""
    known = dict(enumerate(survey.dependencies))
    return [
        StageNote(
            name=stage.name,
            tower=rig.tower,
            block=stage.block,
            layers=tuple(layer.name for layer in stage.layers),
            dependency=known.get(i),
            group=group,
            start=best.start,
            error=best.error,
        )
        for i, stage in enumerate(rig.stages)
        if i in best.block
    ]
