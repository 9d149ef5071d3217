# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Embedding spaces and worst classes of an evaluation, against the same done by hand."""

import shutil

import pytest
import torch
import torch.nn.functional as F

import qkit
from qkit.calibration.observe import set_mode
from qkit.clip.zero_shot import templates
from qkit.data import open_dataset, parse_source
from qkit.data.decode import decode
from qkit.graph.layers import list_points
from qkit.nn.tensor_quantizer import Mode
from qkit.pipeline.evaluate import Evaluator
from qkit.report.space import Embeddings, compare_spaces

MODES = (Mode.OFF, Mode.QUANTIZE)


@pytest.fixture(scope="module")
def clip(tiny_folder, shapes):
    """The tiny model at 2 bits: most of its answers are not the float model's."""
    data = f"captions:{shapes}/captions.csv"
    overrides = qkit.Overrides(samples=6, bits=2, method="minmax")
    return qkit.calibrate(f"local-dir:{tiny_folder}", data, overrides=overrides).student.clip


@torch.no_grad()
def encode(clip, mode, samples, texts):
    """Normalised features of images and texts in a mode."""
    set_mode(clip.model, mode)
    pixels = torch.stack([clip.preprocess(decode(sample.image)) for sample in samples])
    found = clip.model.encode_image(pixels), clip.model.encode_text(clip.tokenizer(texts))
    set_mode(clip.model, Mode.QUANTIZE)
    return tuple(F.normalize(features, dim=-1) for features in found)


def by_class(clip, mode, dataset, samples=None):
    """Normalised features of images (all where none are named) and classes in a mode."""
    prompts = [prompt(name) for name in dataset.classnames for prompt in templates(7)]
    images, texts = encode(clip, mode, samples or dataset.samples, prompts)
    return images, F.normalize(texts.unflatten(0, (len(dataset.classnames), 7)).mean(1), dim=-1)


def check(space, before, after, scale, labels=None):
    expected = compare_spaces(Embeddings(*before), Embeddings(*after), scale, labels)
    for field in space.__slots__:
        assert getattr(space, field) == pytest.approx(getattr(expected, field), abs=1e-5), field
    assert space.logit_kl > 1e-3
    assert space.image_cosine < 0.999


def test_space_of_a_classification(clip, shapes):
    source = f"classes:{shapes}/classes"
    dataset = open_dataset(parse_source(source))
    found = Evaluator(clip, batch_size=5).run(source).space
    labels = torch.tensor([sample.label for sample in dataset.samples])
    scale = clip.model.logit_scale.exp().item()
    check(found, *(by_class(clip, mode, dataset) for mode in MODES), scale, labels)
    assert found.ece_quantized is not None


def test_space_of_a_retrieval_is_of_all_captions(clip, shapes):
    source = f"captions:{shapes}/captions.csv"
    samples = open_dataset(parse_source(source)).samples
    captions = [text for sample in samples for text in sample.texts]
    assert len(captions) == 2 * len(samples)
    metric = Evaluator(clip).run(source)
    scale = clip.model.logit_scale.exp().item()
    check(metric.space, *(encode(clip, mode, samples, captions) for mode in MODES), scale)
    assert metric.space.ece_float is None
    assert metric.worst_classes == ()


@pytest.fixture
def agreeing(clip, shapes, tmp_path):
    """The pictures sorted into three classes as the float model sees them, and broken files."""
    names = sorted(path.name for path in (shapes / "classes").iterdir())
    dataset = open_dataset(parse_source(f"classes:{shapes}/classes"))
    images, classes = by_class(clip, Mode.OFF, dataset)
    for place, answer in enumerate((images @ classes.T).argmax(-1).tolist()):
        target = tmp_path / "data" / names[answer] / f"{place}.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(dataset.samples[place].image, target)
    for name in names:
        (tmp_path / "data" / name).mkdir(exist_ok=True)
        (tmp_path / "data" / name / "0 broken.png").write_bytes(b"no image")
    return f"classes:{tmp_path / 'data'}"


def test_examples_are_found_in_the_data_also_where_bad_files_were_left_out(clip, agreeing):
    dataset = open_dataset(parse_source(agreeing))
    metric = Evaluator(clip, skip_bad=True, batch_size=4).run(agreeing)
    assert metric.skipped == 3
    assert metric.float["top1"] == 1.0
    good = [i for i, s in enumerate(dataset.samples) if "broken" not in s.image.name]
    assert good[0] > 0
    kept = [dataset.samples[i] for i in good]
    labels = [sample.label for sample in kept]
    images, classes = by_class(clip, Mode.QUANTIZE, dataset, kept)
    answers = (images @ classes.T).argmax(-1).tolist()
    wrong = [(n, m) for n, m in zip(labels, answers, strict=True) if n != m]
    assert wrong
    names = dataset.classnames
    found = {
        (entry.name, mistake.taken_for): mistake
        for entry in metric.worst_classes
        for mistake in entry.mistakes
    }
    assert set(found) == {(names[n], names[m]) for n, m in wrong}
    for n, m in wrong:
        mistake = found[names[n], names[m]]
        assert mistake.count == wrong.count((n, m))
        places = zip(good, labels, answers, strict=True)
        assert mistake.example == next(i for i, n2, m2 in places if (n2, m2) == (n, m))


def test_worst_classes_say_what_was_lost(clip, agreeing):
    metric = Evaluator(clip, skip_bad=True).run(agreeing)
    worst = metric.worst_classes
    lost = [entry.samples * (entry.float - entry.quantized) for entry in worst]
    assert lost == sorted(lost, reverse=True)
    assert min(lost) > 0
    assert sum(lost) == pytest.approx(metric.samples * (1 - metric.quantized["top1"]))
    for entry in worst:
        assert sum(mistake.count for mistake in entry.mistakes) >= lost[worst.index(entry)]


@pytest.mark.parametrize("data", ["classes:{}/classes", "captions:{}/captions.csv"])
def test_the_quantized_model_alone_has_nothing_to_compare_with(clip, shapes, data):
    source = data.format(shapes)
    metric = Evaluator(clip, (Mode.QUANTIZE,)).run(source)
    assert (metric.float, metric.agreement, metric.space) == (None, None, None)
    assert metric.worst_classes == ()
    assert metric.quantized == Evaluator(clip).run(source).quantized


def test_the_model_stays_quantized(clip, shapes):
    Evaluator(clip).run(f"classes:{shapes}/classes")
    assert {point.mode for point in list_points(clip.model)} == {Mode.QUANTIZE}
