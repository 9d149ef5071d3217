# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""What an export was found to be when it was loaded back."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

SLACK = 1e-3


@dataclass(frozen=True, slots=True)
class TowerProof:
    """One tower against the simulated model, on the same inputs.

    Attributes:
        tower: "image" or "text".
        largest_difference: of any value of a feature.
        mean_cosine: of features, over the samples.
        least_cosine: of the worst sample.
        integer_products: products that ran on int8 kernels; None where that was not counted.
        products: products whose operands are integers in the file; None as above.
    """

    tower: str
    largest_difference: float
    mean_cosine: float
    least_cosine: float
    integer_products: int | None
    products: int | None


@dataclass(frozen=True, slots=True)
class BackendProof:
    """A whole export in one backend.

    Attributes:
        backend: its name and version.
        towers: one entry a tower.
        agreement: share of images that the same text is nearest to as in the simulated model.
    """

    backend: str
    towers: tuple[TowerProof, ...]
    agreement: float


@dataclass(frozen=True, slots=True)
class ExportReport:
    """An export and its proof.

    Attributes:
        format: "onnx", "openvino" or "compiled".
        source: SHA-256 of the run's tensors.
        files: bytes by name.
        data: source of the samples.
        samples: images, and texts.
        float_sums: the simulated model that sums floats against itself, which sums whole numbers:
            how far a sound execution may be off, since rounding passes differences of the last bit
            on as whole steps.
        proofs: of the export, one a backend.
        bounds: least mean cosine that is accepted, by tower.
        in_float: layers that do not multiply integers in the export, and why.
        layers: of the run.
        interface: what the towers take and give, the preprocessing, the tokenizer.
        versions: of packages.
    """

    format: str
    source: str
    files: Mapping[str, int]
    data: str
    samples: int
    float_sums: BackendProof
    proofs: tuple[BackendProof, ...]
    bounds: Mapping[str, float]
    in_float: Mapping[str, str]
    layers: int
    interface: Mapping[str, Any]
    versions: Mapping[str, str]

    @property
    def failures(self) -> list[tuple[str, TowerProof]]:
        """Backend and tower where the cosine is below its bound."""
        return [
            (proof.backend, tower)
            for proof in self.proofs
            for tower in proof.towers
            if not tower.mean_cosine >= self.bounds[tower.tower]  # a NaN fails
        ]

    @property
    def passed(self) -> bool:
        """Whether every backend gives what the run gives."""
        return not self.failures

    @property
    def reasons(self) -> Counter[str]:
        """How many layers stay in float, by reason."""
        return Counter(self.in_float.values())

    def to_dict(self) -> dict[str, Any]:
        """All of it as plain data."""
        return {**asdict(self), "passed": self.passed}


def bound_of(float_sums: TowerProof) -> float:
    """Least mean cosine of an export: at most twice as far off as sums of floats are anyway."""
    return 1.0 - 2.0 * max(0.0, 1.0 - float_sums.mean_cosine) - SLACK
