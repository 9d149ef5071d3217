# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""What is used where the user names no model and no data: the demo that qkit brings along."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from qkit.clip.loading import DEMO
from qkit.clip.model import ClipModel
from qkit.errors import DataError, ModelError

Model = str | ClipModel | nn.Module

CALIBRATION = "demo:calib"
TUNING = "demo:tune"
EVALUATION = ("demo:labelled", "demo:unseen", "demo:pairs")


@dataclass(frozen=True, slots=True)
class Inputs:
    """What to calibrate, on what, and on what to evaluate.

    Attributes:
        model: its name, or the model itself.
        data: calibration data.
        evaluate: evaluation data.
    """

    model: Model
    data: str
    evaluate: tuple[str, ...]


def fill_in(model: Model | None, data: str | None, evaluate: Sequence[str]) -> Inputs:
    """Complete what the user named: nothing at all means the demo, evaluated on all its parts.

    Raises:
        ModelError: data are named, but no model.
        DataError: a model other than the demo is named, but no data.
    """
    if model is None and data is not None:
        message = f"data {data} are given, but no model. Name one with --model, e.g. --model demo."
        raise ModelError(message)
    if data is None and not (model is None or model == DEMO):
        name = model if isinstance(model, str) else type(model).__name__
        message = f"model {name} is given, but no data to calibrate on. Name some with --data."
        raise DataError(message)
    targets = tuple(evaluate) or (EVALUATION if data is None else ())
    return Inputs(model or DEMO, data or CALIBRATION, targets)
