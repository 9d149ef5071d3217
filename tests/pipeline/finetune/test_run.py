# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""P4Q from a run folder to another: what changes, what does not, what comes back."""

import json
from copy import deepcopy

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

import qkit
from qkit.artifact.folder import read_run
from qkit.calibration.memory import Forgetful
from qkit.clip.zero_shot import class_embeddings, templates
from qkit.data import open_dataset, parse_source
from qkit.data.decode import decode
from qkit.nn.tensor_quantizer import Mode
from qkit.p4q.config import P4QConfig
from qkit.pipeline.evaluate import Evaluator
from qkit.pipeline.finetune.draw import draw_training
from qkit.pipeline.finetune.tune import tune
from qkit.pipeline.student import prepare
from qkit.pipeline.teacher import load_teacher
from qkit.progress import Silent
from tests.pipeline.finetune.conftest import COLOURS, QUICK


def test_nothing_but_prompt_and_adapter_changes(run, tuned):
    _, path = tuned
    before, after = (load_file(folder / "model.safetensors") for folder in (run, path))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    learned = load_file(path / "p4q.safetensors")
    assert set(learned) == {"prompt.context"} | {
        f"adapter.{layer}{part}"
        for layer in ("down", "up")
        for part in (".weight.packed", ".bias", ":weight.scale")
    }


def test_the_model_in_memory_stays_as_it_is_too(run, classes):
    clip = load_teacher(read_run(run)).clip
    flags = {name: p.requires_grad for name, p in clip.model.named_parameters()}
    before = deepcopy(clip.model.state_dict())
    dataset = draw_training(open_dataset(parse_source(classes)), 3, 0)
    found = tune(clip, dataset, QUICK, Forgetful(), Silent()).learned
    after = clip.model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert {name: p.requires_grad for name, p in clip.model.named_parameters()} == flags
    assert all(p.grad is None for p in clip.model.parameters())
    assert found.parameters == 4 * 32 + 2 * 32 * 8 + 8 + 32


def test_loaded_it_gives_what_was_reported(run, tuned, classes, captions):
    result, path = tuned
    loaded = qkit.load(path)
    for source, metric in zip((classes, captions), result.metrics, strict=True):
        found = Evaluator(loaded.clip, (Mode.QUANTIZE,)).run(source)
        assert found.quantized == metric.quantized
    assert loaded.report.label == "W4A4 attn8, minmax, p4q"
    assert [metric.data for metric in loaded.report.metrics] == [classes, captions]
    assert loaded.report.layers == qkit.load(run).report.layers
    files = sum((path / name).stat().st_size for name in ("model.safetensors", "p4q.safetensors"))
    assert loaded.report.size["quantized_bytes"] == files


@torch.no_grad()
def test_loaded_it_is_the_run_with_the_adapter_and_the_prompt(run, tuned, tiny, pixels):
    result, path = tuned
    loaded, source = qkit.load(path), qkit.load(run)
    raw = source.model.encode_image(pixels)
    adapted = result.tuned.learned.adapter(raw)
    assert torch.equal(loaded.model.encode_image(pixels), adapted)
    assert not torch.allclose(adapted, raw, atol=1e-3)
    texts = Evaluator(loaded.clip, (Mode.QUANTIZE,)).class_texts(COLOURS)[Mode.QUANTIZE]
    by_hand = class_embeddings(source.clip, COLOURS, templates(7), lambda *_, **__: None)
    assert not torch.allclose(texts, by_hand, atol=1e-2)
    assert torch.equal(loaded.class_embeddings(COLOURS), texts)
    torch.testing.assert_close(source.class_embeddings(COLOURS), by_hand)
    context = loaded.clip.prompt.context
    assert torch.equal(context, load_file(path / "p4q.safetensors")["prompt.context"])
    assert context.shape == (4, 32)
    tokens = tiny.tokenizer(["a red thing"])  # captions: the prompt was learned on class names
    assert torch.equal(loaded.model.encode_text(tokens), source.model.encode_text(tokens))


def test_a_copy_has_an_adapter_of_its_own(tuned, pixels):
    model = qkit.load(tuned[1]).model
    copy = deepcopy(model)
    with torch.no_grad():
        before = model.encode_image(pixels)
        assert torch.equal(copy.encode_image(pixels), before)
        copy.p4q_adapter.up.bias.add_(1.0)
        assert torch.equal(model.encode_image(pixels), before)
        assert not torch.equal(copy.encode_image(pixels), before)


def test_lent_to_a_model_it_goes_again(tuned, run, pixels):
    clip, learned = qkit.load(run).clip, tuned[0].tuned.learned
    names = set(clip.model.state_dict())
    with torch.no_grad():
        before = clip.model.encode_image(pixels)
        with learned.lent_to(clip) as served:
            assert served.prompt is learned.prompt
            assert not torch.equal(clip.model.encode_image(pixels), before)
        assert torch.equal(clip.model.encode_image(pixels), before)
    assert set(clip.model.state_dict()) == names


def test_the_float_side_knows_no_prompt_and_no_adapter(tuned, tiny, classes, captions):
    plain = prepare(tiny).clip
    for source, metric in zip((classes, captions), tuned[0].metrics, strict=True):
        assert metric.float == Evaluator(plain, (Mode.QUANTIZE,)).run(source).quantized


@torch.no_grad()
def test_gains_are_those_of_the_three_models(run, tuned, tiny, classes):
    gain = tuned[0].report.gains[0]
    assert gain.quantized == Evaluator(qkit.load(run).clip, (Mode.QUANTIZE,)).run(classes).quantized
    assert gain.tuned == tuned[0].metrics[0].quantized
    dataset = open_dataset(parse_source(classes))
    pixels = torch.stack([tiny.preprocess(decode(sample.image)) for sample in dataset.samples])
    labels = [sample.label for sample in dataset.samples]

    def cosine(clip):
        texts = Evaluator(clip, (Mode.QUANTIZE,)).class_texts(dataset.classnames)[Mode.QUANTIZE]
        images = F.normalize(clip.model.encode_image(pixels), dim=-1)
        return float((images * texts[labels]).sum(-1).mean())

    clips = (prepare(tiny).clip, qkit.load(run).clip, qkit.load(tuned[1]).clip)
    found = (gain.float_cosine, gain.quantized_cosine, gain.tuned_cosine)
    assert found == pytest.approx([cosine(clip) for clip in clips], abs=1e-4)


def test_the_manifest_says_how_it_was_made(run, tuned):
    _, path = tuned
    manifest = json.loads((path / "manifest.json").read_text())
    table = manifest["p4q"]
    assert P4QConfig.from_dict(table["options"]) == QUICK
    assert table["classes"] == list(COLOURS)
    assert table["source"] == read_run(run).manifest["files"]["model.safetensors"]["sha256"]
    assert table["data"]["images"] == 9
    assert len(table["curve"]) == 2
    report = table["report"]
    total = sum(p.numel() for p in qkit.load(run).model.parameters())
    assert report["added"] == 4 * 32 + 2 * 32 * 8 + 8 + 32
    assert report["share"] == report["added"] / total
    assert manifest["recipe"] == read_run(run).manifest["recipe"]
    assert manifest["files"].keys() == {"model.safetensors", "p4q.safetensors"}


def test_a_run_of_before_loads_as_it_did(run):
    loaded = qkit.load(run)
    assert loaded.learned is None
    assert loaded.clip.prompt is None
