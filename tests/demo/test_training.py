# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""A few steps of training: repeatable, complete, and by the plan."""

import math
from dataclasses import replace

import pytest
import torch

from qkit.clip.rebuild import rebuild
from qkit.demo.checkpoint import read_config
from qkit.demo.scenes.words import SHAPES, TRAINED
from qkit.demo.training.batches import (
    NO_CLASS,
    Scenes,
    ShapedThings,
    class_prompts,
    training_batches,
)
from qkit.demo.training.loop import Watcher
from qkit.demo.training.optimizers import create_optimizers
from qkit.demo.training.plan import Plan, Stage
from qkit.demo.training.stages import train
from qkit.demo.training.vocabulary import used_tokens

SHORT = Plan(
    shapes=Stage(steps=2, batch_size=8, warmup=1), pairs=Stage(steps=3, batch_size=8, warmup=1)
)


def fresh():
    """The demo's architecture, narrow and shallow."""
    config = read_config()
    config["model_cfg"]["vision_cfg"] |= {"width": 32, "layers": 2, "head_width": 16}
    config["model_cfg"]["text_cfg"] |= {"width": 32, "layers": 2, "heads": 2}
    torch.manual_seed(0)
    return rebuild("demo", config)


def run(plan):
    clip, done = fresh(), []
    log = train(clip, plan, Watcher(done.append, lambda line: None))
    return clip, log, sum(done)


@pytest.fixture(scope="module")
def trained():
    return run(SHORT)


def test_training_repeats_bit_for_bit(trained):
    (first, log, done), (second, again, _) = trained, run(SHORT)
    assert [(line.stage, line.step) for line in log] == [("shapes", 2), ("pairs", 3)]
    assert [line.losses for line in log] == [line.losses for line in again]
    assert done == SHORT.shapes.size + SHORT.pairs.size
    theirs = second.model.state_dict()
    assert all(
        torch.equal(tensor, theirs[name]) for name, tensor in first.model.state_dict().items()
    )


def test_another_seed_draws_other_scenes(trained):
    _, log, _ = trained
    _, other, _ = run(replace(SHORT, seed=1))
    assert log[0].losses != other[0].losses


def test_every_parameter_learns_and_the_model_ends_in_eval_mode(trained):
    before = fresh().model.state_dict()
    clip, _, _ = trained
    same = [name for name, p in clip.model.named_parameters() if torch.equal(p, before[name])]
    assert not same
    assert not clip.model.training


def test_rows_of_unused_tokens_get_no_gradient(trained):
    before = fresh().model.token_embedding.weight
    clip, _, _ = trained
    table = clip.model.token_embedding.weight
    changed = (table != before).any(dim=1).nonzero().flatten().tolist()
    assert changed
    assert set(changed) <= set(used_tokens(clip.tokenizer))


def test_each_parameter_is_in_exactly_one_optimizer():
    model = fresh().model
    optimizers = create_optimizers(model, 1e-3, 0.1)
    held = [id(p) for o in optimizers for group in o.param_groups for p in group["params"]]
    assert sorted(held) == sorted(id(p) for p in model.parameters())
    undecayed = optimizers[1].param_groups[1]["params"]
    assert any(p is model.token_embedding.weight for p in undecayed)


def test_learning_rate_rises_and_falls():
    stage = Stage(steps=100, batch_size=1, warmup=10, final=0.2)
    rates = [stage.rate(step) for step in range(101)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == rates[9] == rates[10] == 1
    assert rates[55] == pytest.approx(0.2 + 0.8 * 0.5 * (1 + math.cos(math.pi * 0.5)))
    assert rates[100] == pytest.approx(0.2)


def test_batches_hold_what_the_scenes_show():
    clip = fresh()
    pairs = next(training_batches(Scenes(clip.tokenizer, clip.preprocess, 0, 64), 32, 1))
    assert pairs.pixels.shape == (32, 3, 64, 64)
    assert pairs.tokens.shape == (32, 24)
    known = pairs.shown[pairs.shown != NO_CLASS]
    assert 0 < len(known) < 32
    assert int(known.max()) < len(TRAINED)
    things = next(training_batches(ShapedThings(clip.preprocess, 0, 64), 32, 1))
    assert set(things.shape.tolist()) == set(range(len(SHAPES)))


def test_there_is_a_prompt_of_every_form_for_every_trained_class():
    clip = fresh()
    prompts = class_prompts(clip.tokenizer)
    assert prompts.shape == (80, len(TRAINED), 24)
    ends = (prompts == 49407).any(dim=-1)
    assert ends.all(), "a prompt is cut off"


def test_the_number_of_drawing_processes_changes_nothing():
    things = ShapedThings(fresh().preprocess, 0, 32)
    one, two = (list(training_batches(things, 8, workers)) for workers in (1, 2))
    assert len(one) == len(two) == 4
    for mine, theirs in zip(one, two, strict=True):
        assert torch.equal(mine.pixels, theirs.pixels)
        assert torch.equal(mine.shape, theirs.shape)


def test_a_shortened_plan_keeps_at_least_two_steps():
    plan = SHORT.shortened(2)
    assert (plan.shapes.steps, plan.pairs.steps) == (2, 2)
    assert Plan().shortened(10).pairs.steps == Plan().pairs.steps // 10
    assert Plan().shortened(1) == Plan()
