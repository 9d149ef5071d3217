# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Which grid for ViT's odd tensors: softmax probabilities, and what a GELU puts out.

    python benchmarks/odd_tensors.py --on demo
    python benchmarks/odd_tensors.py --on testbed

Every grid is chosen by ``mse`` on some calibration samples and measured on others, on the float
model's tensors: SQNR of the tensor, and of the product that it enters, all else in float. Writes
its table into benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from beds import BEDS, Bed
from common import markdown_table, write_section
from torch import Tensor

from calibrators.mse import Mse
from qkit.calibration.observe import Batch, set_mode
from qkit.calibration.session import CalibrationSession
from qkit.clip.loading import load_model
from qkit.graph.layers import Layer
from qkit.grids.codebook import Codebook, grid_of
from qkit.nn.attention import QuantSDPA, attend
from qkit.nn.layer import QuantLayer
from qkit.nn.tensor_quantizer import Mode
from qkit.numerics import Grid, make_grid, token_qparams
from qkit.observers import make_observer, read_stats
from qkit.pipeline.inputs import open_calibration
from qkit.pipeline.student import Student, prepare
from qkit.progress import ignore
from qkit.report.measure import embeddings, hooked
from qkit.report.sums import ErrorSums
from qkit.spec import Granularity, GridKind, PointId, QuantSpec

SAMPLES, BATCH = 16, 4
UNIFORM, TOKEN = QuantSpec(8), QuantSpec(8, granularity=Granularity.TOKEN)
KINDS = {
    "probabilities": (GridKind.LOG2, GridKind.LOG_SQRT2, GridKind.LOG, GridKind.TWIN),
    "after GELU": (GridKind.TWIN_SIGNED, GridKind.SHIFTED_LOG),
}
BITS = {"probabilities": (4, 8), "after GELU": (4, 6, 8)}


@dataclass(frozen=True, slots=True)
class Site:
    """A tensor that is looked at: of one layer, under one role."""

    layer: Layer
    kind: str

    @property
    def module(self) -> QuantSDPA | QuantLayer:
        return self.layer.module

    def tensor_and_product(self, inputs: tuple[Any, ...], rounded: Any) -> tuple[Tensor, Tensor]:
        """The tensor as it came, and what the layer makes of it once it is ``rounded``."""
        if isinstance(self.module, QuantLayer):
            return inputs[0], self.module.product(rounded(inputs[0]), self.module.weight)
        found: list[Tensor] = []

        def see(role: str, x: Tensor) -> Tensor:
            if role != "probs":
                return x
            found.append(x)
            return rounded(x)

        q, k, v, *rest = inputs
        product = attend(q, k, v, rest[0] if rest else None, 0.0, see)
        return found[0], product


def specs(kind: str) -> list[QuantSpec]:
    """All that is compared at a kind of tensor."""
    found = []
    for bits in BITS[kind]:
        found += [QuantSpec(bits), QuantSpec(bits, granularity=Granularity.TOKEN)]
        found += [QuantSpec(bits, grid=grid) for grid in KINDS[kind]]
    return found


def sites(student: Student) -> list[Site]:
    """Attention cores, and second linears of MLPs."""
    return [
        Site(layer, "probabilities" if layer.kind == "attention" else "after GELU")
        for layer in student.layers
        if layer.kind == "attention" or layer.name.endswith("mlp.c_proj")
    ]


def observe(student: Student, batches: Sequence[Batch]) -> dict[Site, dict[QuantSpec, Any]]:
    """Every site's grids, chosen by ``mse`` from a histogram."""
    found = sites(student)
    observers = {site: make_observer(UNIFORM, -1) for site in found}

    def see(site: Site, inputs: tuple[Any, ...], _: Tensor) -> None:
        observers[site](site.tensor_and_product(inputs, lambda x: x)[0])

    run(student, batches, found, see)
    chosen: dict[Site, dict[QuantSpec, Any]] = {}
    for site in found:
        stats = read_stats(observers[site])
        static = {PointId(str(s), "input"): s for s in specs(site.kind) if not s.dynamic}
        session = CalibrationSession(static, dict.fromkeys(static, stats))
        scales = Mse().calibrate(session, ignore)
        chosen[site] = {spec: scales[point] for point, spec in static.items()}
    return chosen


def grid_for(spec: QuantSpec, chosen: Mapping[QuantSpec, Any], x: Tensor) -> Grid | Codebook:
    if spec.dynamic:
        return make_grid(token_qparams(x, spec), spec)
    return grid_of(chosen[spec], spec)


def measure(
    student: Student, batches: Sequence[Batch], chosen: Mapping[Site, Mapping[QuantSpec, Any]]
) -> dict[tuple[Site, QuantSpec], tuple[ErrorSums, ErrorSums]]:
    """Errors of every site's tensor and product under every spec."""
    sums: dict[Any, tuple[ErrorSums, ErrorSums]] = defaultdict(lambda: (ErrorSums(), ErrorSums()))

    def see(site: Site, inputs: tuple[Any, ...], _: Tensor) -> None:
        x, product = site.tensor_and_product(inputs, lambda x: x)
        for spec in specs(site.kind):
            grid = grid_for(spec, chosen[site], x)
            _, off = site.tensor_and_product(inputs, grid.round)
            of_tensor, of_product = sums[site, spec]
            of_tensor.add(x, grid.round(x))
            of_product.add(product, off)

    run(student, batches, list(chosen), see)
    return dict(sums)


def run(student: Student, batches: Sequence[Batch], found: Sequence[Site], see: Any) -> None:
    set_mode(student.model, Mode.OFF)
    with torch.no_grad(), hooked(found, see):
        for batch in batches:
            embeddings(student.model, batch)


def table(sums: Mapping[tuple[Site, QuantSpec], tuple[ErrorSums, ErrorSums]]) -> str:
    """One line a kind of tensor, bits and grid: medians over the layers of either tower."""
    rows = []
    for kind in KINDS:
        for spec in specs(kind):
            own = [
                (s, both) for (s, other), both in sums.items() if s.kind == kind and other == spec
            ]
            name = "uniform per token" if spec.dynamic else spec.grid.value
            figures = []
            for tower in ("image", "text"):
                there = [both for site, both in own if site.layer.tower == tower]
                figures += [
                    statistics.median(s.sqnr_db for s in part) for part in zip(*there, strict=True)
                ]
            rows.append([kind, str(spec.bits), name, *(f"{figure:.1f}" for figure in figures)])
    header = ["tensor", "bits", "grid", "image: tensor", "product", "text: tensor", "product"]
    return markdown_table(header, rows)


def compare(bed: Bed) -> str:
    """The table of one bed."""
    student = prepare(load_model(bed.model), copy=False)
    drawn = open_calibration(bed.calibration, 2 * SAMPLES, 0, skip_bad=False)
    batches = list(drawn.batches(student.clip, BATCH))
    half = len(batches) // 2
    chosen = observe(student, batches[:half])
    return table(measure(student, batches[half:], chosen))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--on", choices=BEDS, default="demo", help="model and data")
    args = parser.parse_args()
    body = compare(BEDS[args.on])
    print(body)
    write_section(
        f"odd-tensors-{args.on}", f"python benchmarks/odd_tensors.py --on {args.on}", body
    )


if __name__ == "__main__":
    main()
