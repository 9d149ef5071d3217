# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Reports to plain data and back, by their type annotations."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any, TypeVar

from cattrs import Converter, transform_error
from cattrs.errors import BaseValidationError

from qkit.errors import ArtifactError
from qkit.report.layer import BlockReport, LayerReport

T = TypeVar("T")


def unstructure(report: Any) -> dict[str, Any]:
    """Plain dictionaries, lists and numbers; an infinite number becomes None.

    Raises:
        ArtifactError: a figure is NaN, which would read as exact.
    """
    content: dict[str, Any] = _finite(_converter().unstructure(report))
    return content


def structure(data: Mapping[str, Any], cls: type[T]) -> T:
    """Read a report from plain data.

    Raises:
        ArtifactError: something is missing, left over or of the wrong type.
    """
    try:
        return _converter().structure(data, cls)
    except BaseValidationError as error:
        message = f"report.json is damaged: {transform_error(error)[0]}. Calibrate again."
        raise ArtifactError(message) from error


def _converter() -> Converter:
    converter = Converter(forbid_extra_keys=True)
    for cls in (LayerReport, BlockReport):
        converter.register_structure_hook(cls, _infinite(cls, converter.get_structure_hook(cls)))
    return converter


def _infinite(cls: type, inner: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    """Read null as infinite in all fields of decibels; a weight's is so only where it has bits."""
    names = [f.name for f in fields(cls) if f.type == "Db"]

    def read(data: Any, kind: Any) -> Any:
        lossless = [name for name in names if data.get(name, 0.0) is None]
        if data.get("weight_bits") is not None and data.get("weight_sqnr_db", 0.0) is None:
            lossless.append("weight_sqnr_db")
        return inner({**data, **dict.fromkeys(lossless, math.inf)}, kind)

    return read


def _finite(value: Any) -> Any:
    if isinstance(value, float) and math.isnan(value):
        message = "a figure of the report is not a number. Check the model for NaN weights."
        raise ArtifactError(message)
    if isinstance(value, float) and math.isinf(value):
        return None
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value
