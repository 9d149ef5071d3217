# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Recipes: which layer is quantized how, by which calibrator, on how much data."""

from qkit.recipe.library import list_recipes as list_recipes
from qkit.recipe.library import load_recipe as load_recipe
from qkit.recipe.overrides import override as override
from qkit.recipe.reading import parse_recipe as parse_recipe
from qkit.recipe.schema import CalibratorConfig as CalibratorConfig
from qkit.recipe.schema import Recipe as Recipe
from qkit.recipe.schema import SchemeRule as SchemeRule
