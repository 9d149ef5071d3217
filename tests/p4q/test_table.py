# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""The [p4q] table of a recipe."""

import tomllib
from dataclasses import replace

import pytest

from qkit.errors import TrainingError
from qkit.p4q.config import AdapterConfig, LossConfig, P4QConfig, PromptConfig
from qkit.p4q.table import merged, read_config

TOML = """
epochs = 20
prompt = { init = "a photo of a", rate = 1 }
adapter = { bits = 4 }
[loss]
distill = 0.5
released = true
"""


def test_what_it_leaves_out_is_as_by_default():
    assert read_config({}) == P4QConfig()
    assert read_config(tomllib.loads(TOML)) == P4QConfig(
        epochs=20,
        prompt=PromptConfig(init="a photo of a", rate=1),
        adapter=AdapterConfig(bits=4),
        loss=LossConfig(distill=0.5, released=True),
    )


@pytest.mark.parametrize("part", ["prompt", "adapter"])
def test_false_leaves_a_part_out(part):
    assert read_config({part: False}) == replace(P4QConfig(), **{part: None})


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"epoch": 3}, "[p4q]: unknown key 'epoch'. Did you mean 'epochs'?"),
        ({"adapter": {"bit": 3}}, "[p4q], adapter: unknown key 'bit'. Did you mean 'bits'?"),
        ({"epochs": 1.5}, "[p4q]: epochs = 1.5 is not possible. Write a whole number."),
        ({"epochs": True}, "[p4q]: epochs = True is not possible. Write a whole number."),
        ({"prompt": {"rate": "1"}}, "prompt: rate = '1' is not possible. Write a number."),
        ({"prompt": {"init": 1}}, "init = 1 is not possible. Write a text in quotes."),
        ({"loss": {"released": 1}}, "released = 1 is not possible. Write true or false."),
        ({"adapter": True}, "adapter = True is no table. Write [p4q.adapter], or false for none."),
        ({"loss": False}, "[p4q], loss = False is no table. Write [p4q.loss]."),
        ({"adapter": {"bits": 9}}, "[p4q]: --adapter-bits 9 is not possible. Use"),
        ({"prompt": False, "adapter": False}, "neither prompt nor adapter is to be learned"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(table, message):
    with pytest.raises(TrainingError) as error:
        read_config(table)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_changes_win_key_by_key():
    table = {"epochs": 5, "prompt": {"vectors": 4, "position": "front"}, "adapter": False}
    changes = {"epochs": 6, "prompt": {"vectors": 8}, "adapter": {"bits": 4}}
    found = merged(table, changes)
    assert found == {
        "epochs": 6,
        "prompt": {"vectors": 8, "position": "front"},
        "adapter": {"bits": 4},
    }
    assert table["epochs"] == 5
    assert merged(table, {"prompt": False})["prompt"] is False
