# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Fine-tuning where the user names no run: the demo model at 4 bits, on things at dusk."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from qkit.clip.loading import DEMO
from qkit.pipeline.calibrate import calibrate
from qkit.pipeline.defaults import CALIBRATION, EVALUATION, TUNING
from qkit.pipeline.finetune.finetune import finetune_p4q
from qkit.pipeline.finetune.result import FinetuneResult
from qkit.progress import Progress

RECIPE = "w4a4-mse-token"


def finetune_demo(
    *, evaluate: Sequence[str] = (), progress: Progress, **options: Any
) -> FinetuneResult:
    """Calibrate the demo model at 4 bits and fine-tune it; ``options`` as of ``finetune_p4q``.

    Evaluates on all parts of the demo where none is named.

    Raises:
        QkitError: anything the caller can mend, in one line.
    """
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        calibrate(DEMO, CALIBRATION, recipe=RECIPE, progress=progress).save(run)
        return finetune_p4q(
            run, TUNING, evaluate=evaluate or EVALUATION, progress=progress, **options
        )
