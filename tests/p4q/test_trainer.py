# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""The training loop on a toy whose best parameters are known."""

import math

import pytest
import torch
import torch.nn.functional as F

from qkit.p4q.adapter import new_adapter
from qkit.p4q.config import AdapterConfig, P4QConfig, PromptConfig
from qkit.p4q.loss import Losses
from qkit.p4q.prompt import PromptLearner, per_class, random_context
from qkit.p4q.schedule import adapter_optimizer, prompt_optimizer
from qkit.p4q.trainer import PART, Diverged, Parts, Trainer

SIZE = 10


class Toy:
    """Sixteen features to be told apart by classes that the prompt's vectors are."""

    size = SIZE

    def __init__(self, parts, spoil=None, steep=None):
        generator = torch.Generator().manual_seed(3)
        self.parts = parts
        self.features = torch.randn(SIZE, 16, generator=generator)
        self.labels = torch.arange(SIZE) % 4
        self.spoil = spoil
        self.steep = steep
        self.seen = []

    def losses(self, samples, epoch):
        self.seen.append((epoch, samples.tolist()))
        images = self.features[samples]
        images = images if self.parts.adapter is None else self.parts.adapter(images)
        texts = torch.eye(4, 16)
        if self.parts.prompt is not None:
            texts = self.parts.prompt(lambda context: texts_of(context))
        logits = 10 * F.normalize(images, dim=-1) @ texts.T
        loss = F.cross_entropy(logits, self.labels[samples])
        if epoch == self.steep:  # adds nothing but a gradient without end
            loss = loss + (0 * self.parts.prompt.context.square().sum()).sqrt()
        right = (logits.argmax(-1) == self.labels[samples]).float().mean()
        return Losses(loss * (math.nan if epoch == self.spoil else 1.0), float(right))


def texts_of(context):
    """Four text features from four vectors."""
    return torch.eye(4, 16) + context


class Dict(dict):
    """A memory that counts."""

    kept = 0

    def recall(self, name):
        return self.get(name)

    def keep(self, name, tensors):
        self.kept += 1
        self[name] = {key: tensor.clone() for key, tensor in tensors.items()}


def parts(prompt=True, adapter=True):
    learner = PromptLearner(random_context(4, 16, 0)) if prompt else None
    return Parts(learner, new_adapter(16, 4, 0.2, 8, seed=0) if adapter else None)


def quick(**options):
    given = {"epochs": 6, "batch_size": 4, "prompt": PromptConfig(rate=0.1)}
    return P4QConfig(**{**given, "adapter": AdapterConfig(rate=1e-2), **options})


def train(config=None, memory=None, spoil=None, steep=None, told=None, **which):
    made = parts(**which)
    toy = Toy(made, spoil, steep)
    trainer = Trainer(made, toy, config or quick())
    trainer.run(Dict() if memory is None else memory, told or (lambda *_, **__: None))
    return trainer, toy


def same(one, other):
    first, second = one.parts.tensors(), other.parts.tensors()
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


@pytest.mark.parametrize("which", [{}, {"prompt": False}, {"adapter": False}])
def test_the_loss_falls_and_what_learns_moves(which):
    trainer, _ = train(**which)
    losses = [loss for loss, _ in trainer.curve]
    assert losses[-1] < losses[0]
    start = parts(**which).tensors()
    for name, tensor in trainer.parts.tensors().items():
        assert not torch.equal(tensor, start[name]), name


def test_an_epoch_is_every_sample_once_in_an_order_of_its_own():
    _, toy = train()
    by_epoch = [[s for epoch, part in toy.seen if epoch == e for s in part] for e in range(6)]
    assert all(sorted(order) == list(range(SIZE)) for order in by_epoch)
    assert len({tuple(order) for order in by_epoch}) == 6
    assert [len(part) for epoch, part in toy.seen if epoch == 0] == [4, 4, 2]


def test_the_curve_counts_each_sample_once():
    """The last batch is smaller; its mean must not weigh as much as the others'."""
    trainer, _ = train(quick(epochs=1), prompt=False, adapter=True)
    assert trainer.curve[0][1] in [pytest.approx(k / SIZE) for k in range(SIZE + 1)]


def test_the_same_seed_is_the_same_training_and_another_one_another():
    assert same(train()[0], train()[0])
    assert not same(train()[0], train(quick(seed=1))[0])


@pytest.mark.parametrize("stop", [1, 3, 5])
@pytest.mark.parametrize("which", [{}, {"prompt": False}, {"adapter": False}])
def test_interrupted_and_resumed_it_ends_bit_for_bit_the_same(stop, which):
    memory, steps, told = Dict(), [], []

    def interrupt(done, **figures):
        steps.append(done)
        if len(steps) == 3 * stop + 2:  # in the middle of an epoch
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(memory=memory, told=interrupt, **which)
    assert memory.kept == stop
    resumed, toy = train(memory=memory, told=lambda done, **_: told.append(done), **which)
    assert toy.seen[0][0] == stop  # what was done is not done again
    assert told[0] == 3 * stop
    assert sum(told) == 18
    whole, _ = train(**which)
    assert same(resumed, whole)
    assert resumed.curve == whole.curve


def test_a_loss_that_is_no_number_stops_it_and_the_last_good_epoch_is_kept():
    memory = Dict()
    with pytest.raises(Diverged, match="the loss became nan in step 1 of epoch 4") as caught:
        train(memory=memory, spoil=3)
    assert caught.value.epoch == 3
    whole, _ = train(quick())
    assert len(memory[PART]["curve"]) == 3
    assert all(t.isfinite().all() for t in memory[PART].values())
    resumed, _ = train(memory=memory)
    assert same(resumed, whole)


@pytest.mark.parametrize(
    ("batch", "found"),
    [(4, "loss became nan in step 2 of epoch 2"), (SIZE, "prompt.context became .* in epoch 2")],
)
def test_a_gradient_that_is_no_number_is_found_before_its_step_is_kept(batch, found):
    memory = Dict()
    with pytest.raises(Diverged, match=found) as caught:
        train(quick(batch_size=batch), memory=memory, steep=1, adapter=False)
    assert caught.value.epoch == memory.kept == 1
    assert memory[PART]["prompt.context"].isfinite().all()


def test_it_stops_when_the_loss_falls_no_more():
    still = quick(epochs=30, patience=2, adapter=AdapterConfig(rate=1e-30), prompt=None)
    trainer, _ = train(still, prompt=False)
    assert len(trainer.curve) < 30
    losses = [loss for loss, _ in trainer.curve]
    assert min(losses[-2:]) >= min(losses[:-2])
    learning, _ = train(quick(epochs=8, patience=8))
    assert len(learning.curve) == 8


@pytest.mark.parametrize(("done", "share"), [(0, 1.0), (50, 0.5005), (100, 1e-3)])
def test_the_prompt_s_step_size_falls_to_a_thousandth(done, share):
    learner = PromptLearner(torch.zeros(1, 1))
    falling = prompt_optimizer(learner, 0.3)
    learner.context.grad = torch.ones(1, 1)
    falling.step(done, 100)
    assert learner.context.item() == pytest.approx(-0.3 * share)


def test_the_adapter_s_step_size_falls_to_nothing():
    layer = torch.nn.Linear(1, 1)
    before = layer.weight.clone()
    falling = adapter_optimizer(layer, 0.1)
    for parameter in layer.parameters():
        parameter.grad = torch.ones_like(parameter)
    falling.step(10, 10)
    assert torch.equal(layer.weight, before)
    falling.step(0, 10)
    assert not torch.equal(layer.weight, before)
    group = falling.optimizer.param_groups[0]
    assert (group["eps"], group["weight_decay"]) == (1e-4, 1e-2)


def test_vectors_start_small_and_alike_for_all_classes():
    context = random_context(64, 64, 0)
    assert context.std() == pytest.approx(0.02, rel=0.05)
    assert torch.equal(context, random_context(64, 64, 0))
    each = PromptLearner(per_class(context, 3))
    assert not each.shared
    assert all(torch.equal(own, context) for own in each.context)
