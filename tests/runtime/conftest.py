# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Run folders of the tiny model by every way in which a shipped recipe rounds, and both models."""

import warnings
from types import SimpleNamespace

import pytest
import torch

import qkit
from qkit.errors import QkitWarning
from qkit.nn.integers import IntegerWeight
from qkit.nn.operand import Operand
from qkit.nn.product import ExactProduct
from qkit.recipe import Recipe, SchemeRule
from qkit.runtime.gemm import Gemm
from qkit.spec import Granularity, QuantSpec, Scheme

WEIGHT = QuantSpec(8, symmetric=True, granularity=Granularity.CHANNEL)
FLOAT_CORE = Recipe((SchemeRule("*", scheme=Scheme(WEIGHT, QuantSpec(8))),))
WAYS = {
    "W8A8 static": {"bits": 8},
    "W8A8 static, attention in float": {"bits": None, "method": None, "recipe": FLOAT_CORE},
    "W8A8 per token": {"bits": 8, "token": True},
    "W4A8": {"bits": 4, "act_bits": 8},
    "W4A4": {"bits": 4},
    "w8a8-mse": {"bits": None, "method": None, "recipe": "w8a8-mse"},
    "w8a8-fast": {"bits": None, "method": None, "recipe": "w8a8-fast"},
    "w4a8-fast": {"bits": None, "method": None, "recipe": "w4a8-fast"},
    "w4a4-fast": {"bits": None, "method": None, "recipe": "w4a4-fast"},
}


@pytest.fixture(scope="session")
def both(save_run):
    """``both("W4A8")``: that run, its simulated model and its int8 one; made once each."""
    made = {}

    def both(name):
        if name not in made:
            options = dict(WAYS[name])
            act_bits, token = options.pop("act_bits", None), options.pop("token", False)
            granularity = "token" if token else None
            options["overrides"] = qkit.Overrides(
                samples=6, act_bits=act_bits, act_granularity=granularity
            )
            path = save_run(**options)
            made[name] = SimpleNamespace(path=path, simulated=qkit.load(path), int8=int8(path))
        return made[name]

    return both


def int8(path, runtime="int8"):
    """The run in integers; what it warns of is looked at elsewhere."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", QkitWarning)
        return qkit.load(path, runtime=runtime)


def same_bits() -> bool:
    """Whether this machine's kernel multiplies by its scales in the order of ``ExactProduct``."""
    generator = torch.Generator().manual_seed(0)
    values = torch.randint(-128, 128, (40, 64), dtype=torch.int8, generator=generator)
    weight = IntegerWeight(values, torch.rand(40, generator=generator))
    levels = torch.randint(0, 256, (30, 64), dtype=torch.uint8, generator=generator)
    operand, bias = Operand(levels, 0.0213, 77), torch.randn(40, generator=generator)
    return torch.equal(Gemm(weight, bias)(operand), ExactProduct(weight, bias)(operand))
