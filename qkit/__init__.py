# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""qkit: post-training quantization of CLIP models.

    import qkit
    result = qkit.calibrate("ViT-B-32:openai", "captions:calib.csv", bits=4, method="mse")
    result.save("runs/first")
    model = qkit.load("runs/first").model

The names below are imported when first used, so that ``import qkit`` costs nothing.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from qkit.calibration.registry import list_calibrators as list_calibrators
    from qkit.clip.loading import load_model as load_model
    from qkit.clip.model import ClipModel as ClipModel
    from qkit.errors import QkitError as QkitError
    from qkit.errors import QkitWarning as QkitWarning
    from qkit.p4q.config import P4QConfig as P4QConfig
    from qkit.pipeline.calibrate import CalibrationResult as CalibrationResult
    from qkit.pipeline.calibrate import calibrate as calibrate
    from qkit.pipeline.evaluate import Evaluator as Evaluator
    from qkit.pipeline.export.export import export as export
    from qkit.pipeline.finetune.finetune import finetune_p4q as finetune_p4q
    from qkit.pipeline.finetune.result import FinetuneResult as FinetuneResult
    from qkit.pipeline.load import load_run as load
    from qkit.pipeline.run import Run as Run
    from qkit.pipeline.search.search import SearchResult as SearchResult
    from qkit.pipeline.search.search import search as search
    from qkit.recipe import Recipe as Recipe
    from qkit.recipe import list_recipes as list_recipes
    from qkit.recipe import load_recipe as load_recipe
    from qkit.recipe.overrides import Overrides as Overrides

__version__ = "0.1.0"

__all__ = [
    "CalibrationResult",
    "ClipModel",
    "Evaluator",
    "FinetuneResult",
    "Overrides",
    "P4QConfig",
    "QkitError",
    "QkitWarning",
    "Recipe",
    "Run",
    "SearchResult",
    "calibrate",
    "export",
    "finetune_p4q",
    "list_calibrators",
    "list_recipes",
    "load",
    "load_model",
    "load_recipe",
    "search",
]

_HOMES = {
    "CalibrationResult": "qkit.pipeline.calibrate:CalibrationResult",
    "ClipModel": "qkit.clip.model:ClipModel",
    "Evaluator": "qkit.pipeline.evaluate:Evaluator",
    "FinetuneResult": "qkit.pipeline.finetune.result:FinetuneResult",
    "Overrides": "qkit.recipe.overrides:Overrides",
    "P4QConfig": "qkit.p4q.config:P4QConfig",
    "QkitError": "qkit.errors:QkitError",
    "QkitWarning": "qkit.errors:QkitWarning",
    "Recipe": "qkit.recipe:Recipe",
    "Run": "qkit.pipeline.run:Run",
    "SearchResult": "qkit.pipeline.search.search:SearchResult",
    "calibrate": "qkit.pipeline.calibrate:calibrate",
    "export": "qkit.pipeline.export.export:export",
    "finetune_p4q": "qkit.pipeline.finetune.finetune:finetune_p4q",
    "list_calibrators": "qkit.calibration.registry:list_calibrators",
    "list_recipes": "qkit.recipe:list_recipes",
    "load": "qkit.pipeline.load:load_run",
    "load_model": "qkit.clip.loading:load_model",
    "load_recipe": "qkit.recipe:load_recipe",
    "search": "qkit.pipeline.search.search:search",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        message = f"module 'qkit' has no attribute {name!r}"
        raise AttributeError(message)
    module, _, attribute = _HOMES[name].partition(":")
    return getattr(importlib.import_module(module), attribute)


def __dir__() -> list[str]:
    return sorted(__all__)
