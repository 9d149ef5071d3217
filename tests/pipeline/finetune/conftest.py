# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""A run at 4 bits, and quick ways to fine-tune it."""

import pytest
import torch

from qkit.p4q.config import AdapterConfig, P4QConfig, PromptConfig
from qkit.pipeline.finetune.finetune import finetune_p4q

QUICK = P4QConfig(PromptConfig(4, rate=0.05), AdapterConfig(rate=1e-2), epochs=2, batch_size=5)
COLOURS = ("blue", "green", "red")


@pytest.fixture(scope="module")
def run(save_run):
    """A run at 4 bits."""
    return save_run()


@pytest.fixture(scope="module")
def classes(shapes):
    return f"classes:{shapes / 'classes'}"


@pytest.fixture(scope="module")
def captions(shapes):
    return f"captions:{shapes / 'captions.csv'}"


@pytest.fixture
def finetune(run, classes):
    """Fine-tune quickly, as the options say."""

    def finetune(data=classes, **options):
        shots = {} if data.startswith("captions") else {"shots": 3}
        return finetune_p4q(run, data, **{"config": QUICK, **shots, **options})

    return finetune


@pytest.fixture(scope="module")
def tuned(run, classes, captions, tmp_path_factory):
    """A result, and its run folder."""
    result = finetune_p4q(run, classes, shots=3, config=QUICK, evaluate=[classes, captions])
    path = tmp_path_factory.mktemp("tuned") / "run"
    result.save(path)
    return result, path


def learned_of(result):
    return result.tuned.learned.tensors()


def same(one, other):
    first, second = learned_of(one), learned_of(other)
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)
