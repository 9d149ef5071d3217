# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""``qkit finetune p4q``: flags, the [p4q] table of --recipe, that of the run's own recipe."""

import json

import pytest

from tests.cli.conftest import one_line_error

OWN = """
[p4q]
epochs = 1
batch_size = 5
prompt = { vectors = 3 }
adapter = { bits = 4, reduction = 2 }
"""


@pytest.fixture
def made(save_run, tmp_path):
    """A run whose recipe says how to fine-tune it."""
    path = tmp_path / "own.toml"
    path.write_text(OWN)
    return save_run(recipe=str(path))


@pytest.fixture
def options(qkit, made, shapes):
    """The options that a fine-tuning of it reports, by flags."""

    def run(*flags):
        source = f"classes:{shapes / 'classes'}"
        done = qkit("finetune", "p4q", made, f"--data={source}", "--shots=3", "--json", *flags)
        assert done.exit_code == 0, done.output
        return json.loads(done.stdout)["options"]

    return run


def test_the_recipe_of_the_run_counts_and_flags_win(options):
    found = options("--epochs=2", "--adapter-bits=6")
    assert (found["epochs"], found["batch_size"], found["prompt"]["vectors"]) == (2, 5, 3)
    assert (found["adapter"]["bits"], found["adapter"]["reduction"]) == (6, 2)


def test_another_recipe_counts_in_its_place(options, tmp_path):
    path = tmp_path / "other.toml"
    path.write_text("[p4q]\nepochs = 1\nprompt = false\n")
    found = options(f"--recipe={path}")
    assert found["prompt"] is None
    assert (found["adapter"]["bits"], found["batch_size"]) == (8, 128)


def test_a_wrong_table_is_refused_where_it_is_written(qkit, calibrate_args, made, shapes, tmp_path):
    path = tmp_path / "wrong.toml"
    path.write_text("[p4q.adapter]\nbit = 4\n")
    fact = "adapter: unknown key 'bit'. Did you mean 'bits'?"
    one_line_error(qkit(*calibrate_args, f"--recipe={path}"), fact)
    source = f"classes:{shapes / 'classes'}"
    one_line_error(
        qkit("finetune", "p4q", made, f"--data={source}", f"--recipe={path}"),
        f"recipe {path}, [p4q], {fact}",
    )
