# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""What a search is asked for: by a caller, or by the ``[search]`` table of a recipe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from qkit.allocation.budget import Budget, parse_budgets
from qkit.allocation.choices import Bits, parse_choices
from qkit.allocation.front import check_possible
from qkit.allocation.solve import Cost
from qkit.allocation.times import NEEDED, Times, read_times
from qkit.errors import RecipeError, SearchError
from qkit.pipeline.search.units import Unit
from qkit.recipe import Recipe, override
from qkit.recipe.overrides import Overrides
from qkit.recipe.values import check_keys, flag, text, whole

STORED_CHOICES = (3, 4, 5, 6, 8)  # of weights; bits of inputs cost nothing in a file
COMPUTED_CHOICES = "4/4,4/8,6/6,8/8"
SAMPLES = 128


@dataclass(frozen=True, slots=True)
class Asked:
    """What to search for.

    Attributes:
        budgets: all hold.
        choices: bits that a layer may get.
        times: of products, where latency is limited.
        samples: pairs to measure on, at most those of the calibration.
        rounding: whether a trial rounds weights as the recipe's ``[rounding]`` says, or to the
            nearest.
    """

    budgets: tuple[Budget, ...]
    choices: tuple[Bits, ...]
    times: Times | None = None
    samples: int = SAMPLES
    rounding: bool = True

    def at(self, recipe: Recipe, bits: Bits) -> Recipe:
        """What a trial calibrates by: all weights and inputs that are quantized at one choice.

        Without reconstruction, which would take its time anew at every choice.
        """
        found = override(recipe, Overrides(weight_bits=bits.weight, act_bits=bits.input))
        rounding = recipe.rounding if self.rounding else None
        return replace(found, rounding=rounding, reconstruction=None)

    def check(self, what: str, units: Sequence[Unit], costs: Mapping[str, Cost]) -> None:
        """Refuse, before minutes of work, what cannot be; the size is known only after them.

        Args:
            what: names what is searched in errors.
            units: who is given bits.
            costs: those that need no trial, by kind of budget.

        Raises:
            SearchError: there is nothing to give out, or a budget is too small.
        """
        if not units:
            message = (
                f"{what} leaves every layer in float: there are no bits to give out. Use another."
            )
            raise SearchError(message)
        for budget in self.budgets:
            if budget.kind in costs:
                check_possible(budget, costs[budget.kind])
            elif budget.kind == "bits":
                message = (
                    f"{what} quantizes no weight, so budget {budget} has none to give out bits to. "
                    "Use budget bitops, or another run."
                )
                raise SearchError(message)


def ask(
    recipe: Recipe,
    budget: str | Sequence[str],
    choices: str | None = None,
    times: str | Path | None = None,
    samples: int = SAMPLES,
    *,
    rounding: bool = True,
) -> Asked:
    """Read what a caller asks for, see ``qkit.search``.

    Args:
        recipe: what is searched from; without ``choices`` inputs keep its bits, unless they cost.
        budget: one, or several that all hold.
        choices: pairs of bits.
        times: a TOML file.
        samples: pairs to measure on.
        rounding: see ``Asked``.

    Raises:
        SearchError: a budget, a choice or a time cannot be read, or is missing.
    """
    budgets = parse_budgets([budget] if isinstance(budget, str) else budget)
    picked = parse_choices(choices or _default_choices(recipe, budgets))
    return Asked(budgets, picked, _times(budgets, times), samples, rounding)


def read_asked(recipe: Recipe) -> Asked:
    """Read the ``[search]`` of a recipe: the arguments of ``ask`` by name.

    Raises:
        SearchError: see ``ask``.
        RecipeError: an unknown key, or a value of the wrong type.
    """
    table, source = recipe.search or {}, "[search]"
    check_keys(table, ("budget", "choices", "times", "samples", "rounding"), source)
    budget = table.get("budget", [])
    named = [budget] if isinstance(budget, str) else budget
    if not isinstance(named, list) or not all(isinstance(one, str) for one in named):
        message = f"{source}: budget = {budget!r} is no text. Write 'bits=4', or a list of such."
        raise RecipeError(message)
    picked, times = (text(table, key, "", source) or None for key in ("choices", "times"))
    samples = whole(table, "samples", SAMPLES, 2, source)
    rounding = flag(table, "rounding", True, source)
    try:
        return ask(recipe, named, picked, times, samples, rounding=rounding)
    except SearchError as error:
        message = f"{source}: {error}"
        raise SearchError(message) from error


def _default_choices(recipe: Recipe, budgets: Sequence[Budget]) -> str:
    if any(budget.kind not in ("bits", "size") for budget in budgets):
        return COMPUTED_CHOICES
    specs = [rule.scheme.input for rule in recipe.rules]
    inputs = max((spec.bits for spec in specs if spec is not None), default=8)
    return ",".join(f"{weight}/{inputs}" for weight in STORED_CHOICES)


def _times(budgets: Sequence[Budget], path: str | Path | None) -> Times | None:
    if path is not None:
        return read_times(Path(path))
    for budget in budgets:
        if budget.kind == "latency":
            message = (
                f"budget {budget} needs measured times, since qkit guesses no speed. Name with "
                f"--times {NEEDED}."
            )
            raise SearchError(message)
    return None
