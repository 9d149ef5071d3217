# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""What is learned from what: the teacher is the float model, caches change nothing."""

from dataclasses import replace
from functools import partial

import pytest
import torch
import torch.nn.functional as F

from qkit.calibration.memory import Forgetful
from qkit.clip.zero_shot import class_embeddings, templates
from qkit.data import open_dataset, parse_source
from qkit.data.decode import decode
from qkit.nn.tensor_quantizer import Mode
from qkit.p4q.config import AdapterConfig, LossConfig, P4QConfig, PromptConfig
from qkit.p4q.loss import Loss
from qkit.pipeline.evaluate import Evaluator
from qkit.pipeline.finetune import step_texts
from qkit.pipeline.finetune.draw import draw_training
from qkit.pipeline.finetune.finetune import finetune_p4q
from qkit.pipeline.finetune.tune import tune
from qkit.pipeline.student import prepare
from qkit.progress import Silent
from tests.pipeline.finetune.conftest import COLOURS, QUICK, learned_of, same


def test_training_learns_the_classes(finetune):
    config = replace(QUICK, epochs=40, loss=LossConfig(distill=0.0))
    curve = finetune(config=config).tuned.curve
    assert curve[-1][0] < curve[0][0]
    assert curve[-1][1] > 0.8


def test_the_same_seed_is_the_same_result_and_another_one_another(finetune):
    assert same(finetune(), finetune())
    assert not same(finetune(), finetune(config=replace(QUICK, seed=1)))


@pytest.mark.parametrize("data", ["classes", "captions"])
def test_features_kept_or_made_anew_train_the_same(finetune, request, data):
    data = request.getfixturevalue(data)
    kept, anew = (finetune(data, cache=cache) for cache in (True, False))
    for one, other in zip(kept.tuned.curve, anew.tuned.curve, strict=True):
        assert one == pytest.approx(other, rel=1e-4)
    first, second = learned_of(kept), learned_of(anew)
    torch.testing.assert_close(first["prompt.context"], second["prompt.context"])


def test_half_precision_is_for_the_text_tower_and_gives_nearly_the_same(tiny, classes, monkeypatch):
    """As on a device that is made for it and on one that is not, here without rounding."""
    dataset = draw_training(open_dataset(parse_source(classes)), 3, 0)

    def curve():
        return tune(prepare(tiny).clip, dataset, QUICK, Forgetful(), Silent()).curve

    def products(half):
        autocast = partial(torch.autocast, dtype=torch.bfloat16, enabled=half)
        monkeypatch.setattr(step_texts, "half_products", lambda device: autocast(device.type))

    products(half=False)
    exact = curve()
    products(half=True)
    found = curve()
    assert found != exact
    for one, other in zip(found, exact, strict=True):
        assert one[0] == pytest.approx(other[0], rel=0.05)


@pytest.mark.parametrize("loss", [LossConfig(), LossConfig(teacher_text="prompt")])
def test_the_teacher_is_the_float_model(run, classes, tiny, loss, monkeypatch):
    """Its logits, as the objective hands them to the loss, against the float model's own."""
    seen = []
    inner = Loss.of_classes

    def spy(self, student, teacher, labels):
        seen.append((teacher, labels))
        return inner(self, student, teacher, labels)

    monkeypatch.setattr(Loss, "of_classes", spy)
    prompt = PromptConfig(init="a photo of a", rate=1e-9)
    config = P4QConfig(prompt, None, loss, epochs=1, batch_size=9)
    finetune_p4q(run, classes, shots=3, config=config)
    (teacher, labels), *_ = seen
    dataset = draw_training(open_dataset(parse_source(classes)), 3, 0)
    with torch.no_grad():
        pixels = torch.stack([tiny.preprocess(decode(s.image)) for s in dataset.samples])
        images = F.normalize(tiny.model.encode_image(pixels), dim=-1)
        if loss.teacher_text == "templates":
            texts = class_embeddings(tiny, COLOURS, templates(7), lambda *_, **__: None)
            wanted = tiny.model.logit_scale.exp() * images @ texts.T
            order = [int((teacher - row).abs().sum(-1).argmin()) for row in wanted]
            assert sorted(order) == list(range(9))
            torch.testing.assert_close(teacher[order], wanted, atol=1e-3, rtol=1e-3)
            assert labels[order].tolist() == [sample.label for sample in dataset.samples]
        else:  # the phrase's embeddings are rounded, so that it is near the phrase only
            texts = tiny.model.encode_text(tiny.tokenizer([f"a photo of a {c}." for c in COLOURS]))
            wanted = tiny.model.logit_scale.exp() * images @ F.normalize(texts, dim=-1).T
            assert (teacher.mean(0) - wanted.mean(0)).abs().max() < 0.2


def test_a_run_in_float_tunes_a_float_model(tiny, classes):
    """Without points the student is its own teacher: the line to compare with."""
    clip = prepare(tiny).clip
    config = replace(QUICK, adapter=AdapterConfig(bits=None))
    dataset = draw_training(open_dataset(parse_source(classes)), 3, 0)
    learned = tune(clip, dataset, config, Forgetful(), Silent()).learned
    served = learned.applied_to(clip)
    assert Evaluator(served, (Mode.QUANTIZE,)).run(classes).samples == 12
