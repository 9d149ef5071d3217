# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""The Python interface: a drop-in model and its report."""

import shutil

import pytest
import torch

import qkit
from qkit.artifact.tensors import to_tensors
from qkit.data import join_sources
from qkit.errors import DataError
from qkit.pipeline.evaluate import Evaluator
from qkit.pipeline.inputs import open_calibration
from qkit.pipeline.measure import Findings

QUICK = qkit.Overrides(samples=6, batch_size=4)


@pytest.fixture
def result(tiny, shapes):
    data = f"captions:{shapes / 'captions.csv'}"
    return qkit.calibrate(tiny, data, bits=8, method="minmax", overrides=QUICK)


def test_the_model_given_is_left_as_it_was(tiny, shapes, pixels):
    before = {k: v.clone() for k, v in tiny.model.state_dict().items()}
    features = tiny.model.encode_image(pixels)
    qkit.calibrate(tiny, f"images:{shapes / 'images'}", bits=2, overrides=QUICK)
    assert list(before) == list(tiny.model.state_dict())
    assert all(torch.equal(before[k], v) for k, v in tiny.model.state_dict().items())
    assert torch.equal(tiny.model.encode_image(pixels), features)


def test_the_quantized_model_is_a_drop_in(result, tiny, pixels, tokens):
    for mine, theirs in (
        (result.model.encode_image(pixels), tiny.model.encode_image(pixels)),
        (result.model.encode_text(tokens), tiny.model.encode_text(tokens)),
    ):
        assert mine.shape == theirs.shape
        assert not torch.equal(mine, theirs)
        assert torch.cosine_similarity(mine, theirs).min() > 0.98
    image, text, scale = result.model(pixels, tokens)
    assert torch.allclose(image, result.model.encode_image(pixels, normalize=True))
    assert torch.allclose(text, result.model.encode_text(tokens, normalize=True))
    assert torch.equal(scale, tiny.model.logit_scale.exp())


def test_result_unpacks_to_model_and_report(result):
    model, report = result
    assert model is result.model
    assert report is result.report


def test_bare_module_can_be_quantized_but_not_saved(tiny, shapes, tmp_path):
    data = f"captions:{shapes / 'captions.csv'}"
    bare = qkit.calibrate(tiny.model, data, bits=8, method="minmax", overrides=QUICK)
    named = qkit.calibrate(tiny, data, bits=8, method="minmax", overrides=QUICK)
    assert bare.report.layers == named.report.layers
    with pytest.raises(qkit.QkitError, match=r"bare CLIP module.*load_model"):
        bare.save(tmp_path / "run")
    tiny.model.vocab_size = 32000
    with pytest.raises(qkit.QkitError, match=r"vocabulary 32000.*load_model"):
        qkit.calibrate(tiny.model, data, overrides=QUICK)


def test_every_parameter_keeps_its_gradient_flag(tiny, shapes):
    tiny.model.visual.requires_grad_(False)
    found = qkit.calibrate(tiny, f"images:{shapes / 'images'}", overrides=QUICK).model
    trainable = {name for name, p in found.named_parameters() if p.requires_grad}
    assert trainable
    assert not any(name.startswith("visual.") for name in trainable)


def test_more_bits_are_never_worse(tiny, shapes):
    data = f"captions:{shapes / 'captions.csv'}"
    cosines = [
        qkit.calibrate(tiny, data, bits=bits, overrides=QUICK).report.embedding_cosine
        for bits in (2, 4, 8)
    ]
    for tower in ("image", "text"):
        values = [cosine[tower] for cosine in cosines]
        assert values == sorted(values)
        assert values[-1] > 0.99


def test_same_seed_same_result_other_seed_other_samples(tiny, shapes):
    data = f"captions:{shapes / 'captions.csv'}"
    runs = [
        qkit.calibrate(tiny, data, overrides=qkit.Overrides(samples=4, seed=seed)).report
        for seed in (0, 0, 1)
    ]
    assert runs[0].layers == runs[1].layers
    assert runs[0].calibration["digest"] == runs[1].calibration["digest"]
    assert runs[0].calibration["digest"] != runs[2].calibration["digest"]


@pytest.mark.parametrize(
    "flags", [{"act_granularity": "token"}, {"bits": 4, "attn_bits": 4}, {"bits": 3}]
)
def test_measuring_changes_nothing(tiny, shapes, pixels, tokens, monkeypatch, flags):
    data = f"captions:{shapes / 'captions.csv'}"
    overrides = qkit.Overrides(samples=6, method="minmax", **flags)
    measured = qkit.calibrate(tiny, data, overrides=overrides)
    monkeypatch.setattr("qkit.pipeline.calibrate.measure_student", _findings_of_nothing)
    plain = qkit.calibrate(tiny, data, overrides=overrides)
    assert measured.report.layers
    assert not plain.report.layers
    one, other = (to_tensors(run.model, run.student.layers) for run in (measured, plain))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    for encode, inputs in (("encode_image", pixels), ("encode_text", tokens)):
        assert torch.equal(
            getattr(measured.model, encode)(inputs), getattr(plain.model, encode)(inputs)
        )
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in measured.model.modules())


def test_unreadable_images_are_left_out_of_the_measuring_too(tiny, shapes, tmp_path):
    folder = shutil.copytree(shapes / "images", tmp_path / "images")
    source = f"images:{folder}"
    for sample in open_calibration(source, 12, 0, skip_bad=True).dataset.samples[:5]:
        sample.image.write_bytes(b"no image")
    report = qkit.calibrate(tiny, source, skip_bad=True, method="minmax").report
    assert len(report.calibration["skipped"]) == 5
    assert report.layers


def test_everything_is_covered_by_default(result):
    coverage = result.report.coverage
    assert coverage.macs == 1.0
    assert {item.why for item in coverage.left_float}
    assert all(item.macs == 0 for item in coverage.left_float)


@pytest.mark.parametrize(
    ("source", "texts_from"),
    [("captions", "caption"), ("classes", "around the classes"), ("images", "ImageNet")],
)
def test_texts_of_every_kind_of_data(tiny, shapes, source, texts_from):
    place = shapes / ("captions.csv" if source == "captions" else source)
    data = open_calibration(f"{source}:{place}", 5, 0, skip_bad=False)
    assert len(data.texts) == len(data.dataset) == 5
    assert texts_from in data.describe()["texts_from"]
    batches = list(data.batches(tiny, 2))
    assert sum(len(batch.images) for batch in batches) == 5
    assert sum(len(batch.texts) for batch in batches) == 5


def test_several_sources_give_their_shares_in_turns(tiny, shapes):
    sources = [f"captions:{shapes}/captions.csv", f"classes:{shapes}/classes"]
    data = open_calibration(join_sources(sources), 7, 0, skip_bad=False)
    parts = [
        open_calibration(s, n, 0, skip_bad=False) for s, n in zip(sources, (4, 3), strict=True)
    ]
    assert data.dataset.samples[::2] == parts[0].dataset.samples
    assert [s.image for s in data.dataset.samples[1::2]] == [
        s.image for s in parts[1].dataset.samples
    ]
    assert data.texts[::2] == parts[0].texts
    assert data.texts[1::2] == parts[1].texts
    assert all(part.texts_from in data.texts_from for part in parts)
    smaller = open_calibration(join_sources(sources), 4, 0, skip_bad=False)
    assert smaller.dataset.samples == data.dataset.samples[:4]


def test_more_sources_than_samples_are_refused(shapes):
    sources = f"captions:{shapes}/captions.csv + classes:{shapes}/classes"
    with pytest.raises(DataError, match="1 samples cannot come from 2 sources"):
        open_calibration(sources, 1, 0, skip_bad=False)


def test_class_embeddings_are_made_once(result, shapes, monkeypatch):
    evaluator = Evaluator(result.student.clip)
    first = evaluator.run(f"classes:{shapes / 'classes'}")
    monkeypatch.setattr("qkit.pipeline.evaluate.encode_classes", _never)
    assert evaluator.run(f"classes:{shapes / 'classes'}") == first


def test_evaluation_needs_something_to_compare_with(result, shapes):
    with pytest.raises(qkit.QkitError, match=r"images:.* has neither labels nor captions"):
        Evaluator(result.student.clip).run(f"images:{shapes / 'images'}")
    with pytest.raises(qkit.QkitError, match=r"no set of 5 templates. Use one of: 7, 80"):
        Evaluator(result.student.clip, template_count=5).run(f"classes:{shapes / 'classes'}")


def test_the_public_names_are_there():
    assert qkit.__all__ == list(qkit._HOMES)
    for name in qkit.__all__:
        assert getattr(qkit, name) is not None
    with pytest.raises(AttributeError, match="calibrat3"):
        _ = qkit.calibrat3


def _findings_of_nothing(*_: object) -> Findings:
    return Findings((), (), {}, 0)


def _never(*_: object) -> None:
    message = "class embeddings were made twice"
    raise AssertionError(message)
