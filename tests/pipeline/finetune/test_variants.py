# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Every option, through its run folder and back."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

import qkit
from qkit.nn.tensor_quantizer import Mode
from qkit.p4q.config import AdapterConfig, LossConfig, PromptConfig
from qkit.pipeline.evaluate import Evaluator
from tests.pipeline.finetune.conftest import QUICK, learned_of, same

VARIANTS = {
    "no prompt": {"prompt": None},
    "no adapter": {"adapter": None},
    "4 bits": {"adapter": AdapterConfig(bits=4, rate=1e-2)},
    "class-specific": {"prompt": PromptConfig(2, class_specific=True)},
    "middle": {"prompt": PromptConfig(3, "middle")},
    "phrase": {"prompt": PromptConfig(init="a photo of a", rate=1e-9)},
    "no distillation": {"loss": LossConfig(distill=0.0)},
    "no labels": {"loss": LossConfig(task=0.0)},
    "released": {"loss": LossConfig(released=True)},
    "prompted teacher": {"loss": LossConfig(teacher_text="prompt")},
}


@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_comes_back_from_its_folder(finetune, classes, tmp_path, name):
    result = finetune(config=replace(QUICK, **VARIANTS[name]), evaluate=[classes])
    result.save(tmp_path / "run")
    loaded = qkit.load(tmp_path / "run")
    stored = learned_of(result)
    assert stored.keys() == loaded.learned.tensors().keys()
    assert all(torch.equal(stored[k], t) for k, t in loaded.learned.tensors().items())
    found = Evaluator(loaded.clip, (Mode.QUANTIZE,)).run(classes)
    assert found.quantized == result.metrics[0].quantized
    assert not same(result, finetune())


def test_a_phrase_is_where_the_vectors_start(finetune, tiny):
    config = replace(QUICK, prompt=PromptConfig(init="a photo of a", rate=1e-9))
    context = finetune(config=config).tuned.learned.prompt.context
    table = tiny.model.token_embedding.weight[tiny.tokenizer(["a photo of a"])[0, 1:5]]
    assert F.cosine_similarity(context, table).min() > 0.98  # the table is rounded to 4 bits


def test_captions_train_prompt_and_adapter_and_are_encoded_with_the_prompt(
    run, finetune, captions, classes, tmp_path
):
    config = replace(QUICK, epochs=6)
    result = finetune(captions, config=config, evaluate=[captions, classes])
    assert result.tuned.curve[-1][0] < result.tuned.curve[0][0]
    assert result.report.images == 12
    result.save(tmp_path / "run")
    loaded = qkit.load(tmp_path / "run")
    assert loaded.clip.prompt.captions
    for source, metric in zip((captions, classes), result.metrics, strict=True):
        found = Evaluator(loaded.clip, (Mode.QUANTIZE,)).run(source)
        assert found.quantized == metric.quantized
    one, other = (
        Evaluator(clip, (Mode.QUANTIZE,)).caption_texts(["a red thing"])[Mode.QUANTIZE]
        for clip in (loaded.clip, qkit.load(run).clip)
    )
    assert not torch.allclose(one, other, atol=1e-3)
