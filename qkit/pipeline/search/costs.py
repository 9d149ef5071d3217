# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""What every choice of every unit costs, in each kind of budget."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from torch import Tensor

from qkit.allocation.choices import Bits
from qkit.allocation.solve import Cost
from qkit.allocation.times import Times, time_of
from qkit.artifact.tensors import to_tensors
from qkit.errors import SearchError
from qkit.graph.layers import Layer, operand_bits
from qkit.nn.layer import QuantLayer
from qkit.pipeline.search.units import Unit
from qkit.pipeline.student import Student

FLOAT_BITS = 32  # what an operand in float counts in bit operations
OFFSET = 10**9  # an offset of nine digits or fewer: a file's header is counted at its longest
EMPTY = 8 + 2 + 8  # bytes of a file without tensors: length, braces, padding

Stored = Mapping[str, int]
"""Bytes in the file, by the module that they belong to."""


def computed_costs(
    units: Sequence[Unit], choices: Sequence[Bits], student: Student, times: Times | None
) -> dict[str, Cost]:
    """Costs that need no trial, by kind of budget: all but "size".

    No "bits" where no weight is quantized, "latency" only with times.

    Raises:
        SearchError: a time is missing.
    """
    found = {"bitops": bitops_cost(units, choices, student)}
    if any(unit.weights for unit in units):
        found["bits"] = bits_cost(units, choices)
    if times is not None:
        found["latency"] = latency_cost(units, choices, times)
    return found


def model_costs(student: Student) -> dict[str, float]:
    """Mean bits and bit operations of a model as its points are."""
    held = [
        (layer.module.weight.numel(), layer.weight_quantizer.spec.bits)
        for layer in student.layers
        if isinstance(layer.module, QuantLayer) and layer.weight_quantizer is not None
    ]
    macs = student.macs
    rest = max(0, student.total_macs - sum(macs.values())) * FLOAT_BITS**2
    products = sum(macs.get(layer.name, 0) * _product(layer) for layer in student.layers)
    found = {"bitops": float(products + rest)}
    if held:
        found["bits"] = sum(n * bits for n, bits in held) / sum(n for n, _ in held)
    return found


def bits_cost(units: Sequence[Unit], choices: Sequence[Bits]) -> Cost:
    """Mean bits of a weight that is quantized."""
    total = sum(unit.weights for unit in units)
    return Cost(_table(units, choices, lambda unit, bits: unit.weights * bits.weight), per=total)


def size_cost(units: Sequence[Unit], stored: Sequence[Stored]) -> Cost:
    """Bytes of ``model.safetensors``.

    Args:
        units: who is given bits.
        stored: bytes by module, once for every choice; what no unit owns is the same in all.
    """
    owners = [_owners(unit) for unit in units]
    owned = set[str]().union(*owners)
    parts = [[sum(found.get(name, 0) for name in mine) for found in stored] for mine in owners]
    rest = max(sum(n for name, n in found.items() if name not in owned) for found in stored)
    return Cost(np.array(parts, dtype=float), fixed=float(EMPTY + rest))


def bitops_cost(units: Sequence[Unit], choices: Sequence[Bits], student: Student) -> Cost:
    """Multiply-accumulates times the bits of both operands, of one image and one text."""
    mine = {layer.name for unit in units for layer in unit.layers}
    seen = sum(student.macs.values())
    fixed = max(0, student.total_macs - seen) * FLOAT_BITS**2
    for layer in student.layers:
        if layer.name not in mine:
            fixed += student.macs.get(layer.name, 0) * _product(layer)

    def part(unit: Unit, bits: Bits) -> float:
        weight = bits.weight if unit.weights else FLOAT_BITS
        return float(unit.macs * weight * (bits.input if unit.sees_input else FLOAT_BITS))

    return Cost(_table(units, choices, part), fixed=float(fixed))


def latency_cost(units: Sequence[Unit], choices: Sequence[Bits], times: Times) -> Cost:
    """Seconds of the units' products of one image and one text, as they were measured.

    Raises:
        SearchError: a time is missing, or a unit leaves an operand in float.
    """
    for unit in units:
        if unit.macs and not (unit.weights and unit.sees_input):
            message = (
                f"{unit.name} keeps an operand in float, for which --times has no time. "
                "Search a run that quantizes both, or use another budget."
            )
            raise SearchError(message)

    def part(unit: Unit, bits: Bits) -> float:
        return unit.macs * 1e-6 * time_of(times, unit.tower, bits) * 1e-9 if unit.macs else 0.0

    return Cost(_table(units, choices, part))


def stored_bytes(student: Student) -> Stored:
    """What a calibrated model takes in its file, by module; the header's entries included."""
    found: Counter[str] = Counter()
    for name, tensor in to_tensors(student.model, student.layers).items():
        found[_owner(name)] += tensor.nbytes + _entry(name, tensor)
    return found


def _entry(name: str, tensor: Tensor) -> int:
    """Bytes of a tensor's entry in the header."""
    content = {"dtype": "I64", "shape": list(tensor.shape), "data_offsets": [OFFSET, OFFSET]}
    return len(json.dumps({name: content}, separators=(",", ":"))) - 1  # braces go, a comma comes


def _owner(name: str) -> str:
    """The module of a stored tensor: "NAME.weight.packed" or "NAME:role.scale"."""
    return name.partition(":")[0].removesuffix(".weight.packed")


def _owners(unit: Unit) -> set[str]:
    """Modules whose tensors change with the bits of a unit; a shared input is the attention's."""
    return {layer.name for layer in unit.layers} | {p.point.module for p in unit.points}


def _product(layer: Layer) -> int:
    """Bits of one operand times bits of the other, as the recipe has them."""
    bits = [FLOAT_BITS if found is None else found for found in operand_bits(layer).values()]
    return bits[0] * bits[-1]


def _table(
    units: Sequence[Unit], choices: Sequence[Bits], part: Callable[[Unit, Bits], float]
) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    return np.array([[part(unit, bits) for bits in choices] for unit in units], dtype=float)
