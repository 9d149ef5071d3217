# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Options of a fine-tuning: what is refused, and the way into a run folder and back."""

import json
import math

import pytest

from qkit.errors import TrainingError
from qkit.p4q.config import AdapterConfig, LossConfig, P4QConfig, PromptConfig


@pytest.mark.parametrize(
    ("options", "fact"),
    [
        ({"prompt": None, "adapter": None}, "neither prompt nor adapter"),
        ({"epochs": 0}, "--epochs 0 is not possible. Use a whole number from 1"),
        ({"batch_size": 0}, "--batch-size 0"),
        ({"patience": 0}, "--patience 0"),
        ({"seed": -1}, "--seed -1"),
        ({"prompt": PromptConfig(vectors=0)}, "--context 0 .* or --no-prompt"),
        ({"prompt": PromptConfig(position="frnt")}, "--position 'frnt'. Did you mean 'front'?"),
        ({"prompt": PromptConfig(rate=0.0)}, "--prompt-rate 0.0 .* more than 0"),
        ({"prompt": PromptConfig(rate=1e300)}, "--prompt-rate 1e\\+300 .* at most 1000"),
        ({"adapter": AdapterConfig(bits=9)}, "--adapter-bits 9 .* from 2 to 8"),
        ({"adapter": AdapterConfig(ratio=0.0)}, "--ratio 0.0 .* at most 1"),
        ({"adapter": AdapterConfig(reduction=0)}, "--reduction 0"),
        ({"adapter": AdapterConfig(rate=math.inf)}, "--adapter-rate inf"),
        ({"loss": LossConfig(distill=-1.0)}, "--distill -1.0 .* 0 or more"),
        ({"loss": LossConfig(task=math.nan)}, "--task nan"),
        ({"loss": LossConfig(task=0.0, distill=0.0)}, "--task 0.0 .* or --distill"),
        ({"loss": LossConfig(temperature=0.0)}, "--temperature 0.0"),
        ({"loss": LossConfig(teacher_text="hand")}, "--teacher-text 'hand'"),
        ({"prompt": None, "loss": LossConfig(teacher_text="prompt")}, "needs a prompt"),
    ],
)
def test_what_is_impossible_is_refused_in_one_line(options, fact):
    with pytest.raises(TrainingError, match=fact) as caught:
        P4QConfig(**options)
    assert "\n" not in str(caught.value)


def test_the_prompt_s_rate_is_the_paper_s_unless_it_is_given():
    assert P4QConfig().prompt_rate == pytest.approx(3.2e-2)
    assert P4QConfig(batch_size=32).prompt_rate == pytest.approx(8e-3)
    assert P4QConfig(prompt=PromptConfig(rate=0.5)).prompt_rate == 0.5


@pytest.mark.parametrize(
    "config",
    [
        P4QConfig(),
        P4QConfig(prompt=None, adapter=AdapterConfig(4, 0.5, 2, 1e-2), epochs=3, patience=2),
        P4QConfig(prompt=PromptConfig(4, "front", True, "a photo", 0.1), adapter=None, seed=3),
        P4QConfig(loss=LossConfig(0.5, 2.0, 4.0, True, "prompt"), templates=80),
    ],
)
def test_as_json_and_back_it_is_the_same(config):
    assert P4QConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
