# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Q-VLM's block-partitioned search (arXiv 2410.08119) for the two towers of CLIP."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from calibrators.entropy.blocks import Best, BlockSearch, notes
from calibrators.entropy.optimize import Training, optimize, require_stages
from calibrators.entropy.partition import Blocks, fixed, grow, shuffled, threshold_of
from calibrators.entropy.released import released_ranges
from calibrators.entropy.search import Error, Found, search
from calibrators.entropy.survey import Survey, Surveyor
from calibrators.mse import Mse
from qkit.calibration.bench import Rig
from qkit.calibration.protocol import Annotated, StageNote
from qkit.calibration.session import CalibrationSession
from qkit.errors import CalibrationError
from qkit.progress import Advance, ignore
from qkit.spec import Affine, PointId, QParams

MODES = ("paper", "released")
SPANS = ("half", "block")
PARTITIONS = ("entropy", "fixed", "random")
OBJECTIVES = ("importance", "plain")


@dataclass(frozen=True, slots=True)
class Entropy:
    """Searches ranges of dependent layers together, for the least error at their block's end.

    Layers whose activations hang on each other, measured by conditional entropy, form a block; its
    clipping ranges, of activations and weights, are searched jointly with quantized inputs.

    Attributes:
        mode: "paper"; "released": what the public code does, for comparison only, with no options.
        samples: calibration images, and texts, that candidates are run on.
        span: what counts as a layer: "half" a residual block (attention, MLP) or a whole "block".
        max_layers: most layers in a block.
        threshold: average dependency that a block must exceed: "mean", nats, or "q0.75".
        partition: "entropy"; "fixed" (blocks of max_layers) and "random" are for comparison.
        objective: squared error weighted by "importance" for the embedding, or "plain" (paper).
        percentiles: shares of a tensor's values that a range keeps at either end.
        factors: multiples of a layer's own best scale that are tried too.
        wide: search points of more bits than their block's narrowest, too.
        race: drop a combination that is behind the best after any few samples.
        exhaustive: most combinations of a block that are all tried; beyond, coordinate descent.
        sweeps: most rounds of the descent.
        restarts: further random starts of the descent.
        rows: rows of an input that a layer's own best ranges are chosen on.
        seed: of the draws.
        optimize_encoder: then learn scales and LayerNorms end to end (the paper's Eq 8 to 10).
        pairs: images, and texts, to learn from.
        epochs: passes over them.
        batch: pairs a step.
        rate: step size of the learning.
        entropy_weight: lambda1 of Eq 10, of the dependencies.
        error_weight: lambda2 of Eq 10, of the errors of embedding and stream.
        stream_weight: eta of Eq 9, of the last stage's error.
    """

    mode: str = "paper"
    samples: int = 24
    span: str = "half"
    max_layers: int = 3
    threshold: str | float = "mean"
    partition: str = "entropy"
    objective: str = "importance"
    percentiles: tuple[float, ...] = (1.0, 0.995, 0.99, 0.985, 0.98)
    factors: tuple[float, ...] = (0.9, 1.1)
    wide: bool = False
    race: bool = True
    exhaustive: int = 125
    sweeps: int = 1
    restarts: int = 0
    rows: int = 512
    seed: int = 0
    optimize_encoder: bool = False
    pairs: int = 64
    epochs: int = 10
    batch: int = 8
    rate: float = 2e-3
    entropy_weight: float = 0.01
    error_weight: float = 1.0
    stream_weight: float = 1.0

    def __post_init__(self) -> None:
        for name, known in (
            ("mode", MODES),
            ("span", SPANS),
            ("partition", PARTITIONS),
            ("objective", OBJECTIVES),
        ):
            if getattr(self, name) not in known:
                message = f"{name} = {getattr(self, name)!r}. Use one of {', '.join(known)}."
                raise ValueError(message)
        for name in ("samples", "max_layers", "sweeps", "rows", "pairs", "epochs", "batch"):
            if getattr(self, name) < 1:
                message = f"{name} = {getattr(self, name)!r}. Use 1 or more."
                raise ValueError(message)
        threshold_of((), self.threshold)
        if self.optimize_encoder and self.mode == "released":
            message = "optimize_encoder is the paper's. Leave it out with mode = 'released'."
            raise ValueError(message)

    @property
    def learns_affines(self) -> bool:
        """See ``AffineLearner``."""
        return self.optimize_encoder

    def calibrate(self, session: CalibrationSession, advance: Advance) -> Mapping[PointId, QParams]:
        """Choose every scale, tower by tower and block by block.

        Points outside the blocks get their layer's own best ranges; what no layer's output can
        judge (embeddings, per-channel inputs), or all where the session has no model to run, gets
        the least error of the tensor itself; so does a grid that is not uniform.

        Raises:
            CalibrationError: mode "released" is to choose a grid that is not uniform.
        """
        if self.mode == "released":
            _require_uniform(session)
            return released_ranges(session, self.span, advance)
        rigs = session.bench.rigs(self.span, self.samples) if session.bench else []
        if self.optimize_encoder:
            require_stages(rigs)
        result = _Result(dict(Mse().calibrate(session, ignore)))
        for rig in rigs:
            self._tower(rig, session, result, advance)
        if self.optimize_encoder:
            learned, result.affines = self._optimize(session, result.magnitudes, advance)
            result.chosen |= learned
        advance(len(session.points) - result.told)
        decided = result.thresholds if self.partition == "entropy" else {}
        return Annotated(result.chosen, result.stages, decided, result.affines)

    def _tower(
        self, rig: Rig, session: CalibrationSession, result: _Result, advance: Advance
    ) -> None:
        """Survey one tower, cut it into blocks, and search them one after the other."""
        for point in rig.points.keys() & result.chosen.keys():
            rig.put(point, result.chosen[point])
        weighted = self.objective == "importance"
        found = Surveyor(rig, session, self.rows, self.seed).run(weighted=weighted)
        result.chosen |= found.chosen
        result.magnitudes[rig.tower] = [one.magnitude for one in found.importances]
        threshold = threshold_of(found.dependencies, self.threshold)
        result.thresholds[rig.tower] = threshold
        for number, best in enumerate(self._search(rig, session, found, threshold)):
            result.chosen |= best.chosen
            result.stages += notes(rig, found, number, best)
            result.told += len(best.chosen)
            advance(len(best.chosen))

    def _optimize(
        self,
        session: CalibrationSession,
        magnitudes: Mapping[str, Sequence[float]],
        advance: Advance,
    ) -> tuple[dict[PointId, QParams], dict[PointId, Affine]]:
        """Learn from the chosen scales on, which are installed."""
        rigs = session.bench.rigs(self.span, self.pairs) if session.bench else []
        training = Training(
            self.epochs,
            self.batch,
            self.rate,
            self.entropy_weight,
            self.error_weight,
            self.stream_weight,
            self.seed,
        )
        scale = session.bench.logit_scale if session.bench else 1.0
        return optimize(rigs, magnitudes, scale, training, lambda loss: advance(0, loss=loss))

    def _search(
        self, rig: Rig, session: CalibrationSession, found: Survey, threshold: float
    ) -> Iterator[Best]:
        """Search the blocks of one tower, one after the other."""
        if not rig.stages:
            return
        walk = BlockSearch(
            rig, session, found, self.percentiles, self.factors, self.wide, self.race, self.find
        )
        for block in self._blocks(found, threshold):
            yield walk.run(block)

    @property
    def find(self) -> Callable[[Sequence[int], Error], Found]:
        """Finds the best combination of a block."""
        return partial(search, limit=self.exhaustive, sweeps=self.sweeps, restarts=self.restarts)

    def _blocks(self, found: Survey, threshold: float) -> Blocks:
        if self.partition == "fixed":
            return fixed(len(found.importances), self.max_layers)
        blocks = grow(found.dependencies, threshold, self.max_layers)
        return shuffled(blocks, self.seed) if self.partition == "random" else blocks


def _require_uniform(session: CalibrationSession) -> None:
    for point, spec in session.points.items():
        if not spec.uniform:
            message = (
                f"mode = 'released' knows uniform grids only, and {point} has grid = "
                f"'{spec.grid}'. Use mode = 'paper', or grid = 'uniform'."
            )
            raise CalibrationError(message)


@dataclass(slots=True)
class _Result:
    """What is gathered from tower to tower; ``told`` points were counted as done."""

    chosen: dict[PointId, QParams]
    stages: list[StageNote] = field(default_factory=list)
    thresholds: dict[str, float] = field(default_factory=dict)
    magnitudes: dict[str, list[float]] = field(default_factory=dict)
    affines: dict[PointId, Affine] = field(default_factory=dict)
    told: int = 0
