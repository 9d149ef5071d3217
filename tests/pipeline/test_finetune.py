# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""P4Q from a run folder to another: what changes, what does not, and what is refused."""

import json
import shutil
from copy import deepcopy
from dataclasses import replace

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
from qkit.errors import ArtifactError, DataError, ModelError, TrainingError
from qkit.nn.tensor_quantizer import Mode
from qkit.p4q.config import AdapterConfig, LossConfig, P4QConfig, PromptConfig
from qkit.p4q.loss import Loss
from qkit.pipeline.evaluate import Evaluator
from qkit.pipeline.finetune import objective
from qkit.pipeline.finetune import tune as tuning
from qkit.pipeline.finetune.draw import draw_training
from qkit.pipeline.finetune.finetune import finetune_p4q
from qkit.pipeline.finetune.objective import TowerObjective
from qkit.pipeline.finetune.tune import tune
from qkit.pipeline.student import prepare
from qkit.pipeline.teacher import load_teacher
from qkit.progress import Silent

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
    """As on a device that is made for it, here on the processor and without rounding."""
    dataset = draw_training(open_dataset(parse_source(classes)), 3, 0)

    def curve():
        return tune(prepare(tiny).clip, dataset, QUICK, Forgetful(), Silent()).curve

    def half(device):
        return torch.autocast(device.type, torch.bfloat16)

    exact = curve()
    monkeypatch.setattr(objective, "mixed_precision", half)
    found = curve()
    assert found != exact
    for one, other in zip(found, exact, strict=True):
        assert one[0] == pytest.approx(other[0], rel=0.05)


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
    assert not same(result, finetune()) or name == "phrase"


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


@pytest.mark.parametrize("shots", [1, 2, 4])
def test_shots_are_drawn_by_class_and_seed(classes, shots):
    dataset = open_dataset(parse_source(classes))
    drawn = draw_training(dataset, shots, 0)
    labels = [sample.label for sample in drawn.samples]
    assert labels == [label for label in range(3) for _ in range(shots)]
    assert len(set(drawn.samples)) == len(drawn)
    assert drawn == draw_training(dataset, shots, 0)
    if shots < 4:
        seeds = {draw_training(dataset, shots, seed).samples for seed in range(8)}
        assert len(seeds) > 1
    more = draw_training(dataset, 4, 0).samples
    for label in range(3):
        mine = [s for s in drawn.samples if s.label == label]
        assert mine == [s for s in more if s.label == label][:shots]


def test_classes_with_too_few_images_are_named(shapes, tmp_path):
    shutil.copytree(shapes / "classes", tmp_path / "few")
    for name in ("red/0.png", "red/1.png", "blue/2.png"):
        (tmp_path / "few" / name).unlink()
    dataset = open_dataset(parse_source(f"classes:{tmp_path / 'few'}"))
    fact = r"2 classes have fewer images than --shots 4: blue \(3\), red \(2\)\. Use --shots 2, or"
    with pytest.raises(DataError, match=fact):
        draw_training(dataset, 4, 0)
    with pytest.raises(DataError, match=r"1 class has fewer images than --shots 3: red \(2\)"):
        draw_training(dataset, 3, 0)
    with pytest.raises(DataError, match=r"--shots 0 is not possible"):
        draw_training(dataset, 0, 0)


def test_data_that_cannot_be_learned_from_are_refused(finetune, run, shapes, captions, classes):
    with pytest.raises(DataError, match="neither classes nor captions to learn from"):
        finetune(f"images:{shapes / 'images'}")
    with pytest.raises(DataError, match=r"--shots 3 counts images of a class.*Drop --shots"):
        finetune_p4q(run, captions, shots=3, config=QUICK)
    own = replace(QUICK, prompt=PromptConfig(2, class_specific=True))
    with pytest.raises(DataError, match="--class-specific needs classes"):
        finetune(captions, config=own)
    long = replace(QUICK, prompt=PromptConfig(13))
    with pytest.raises(DataError, match=r"class 'blue' does not fit.*Use --context 12 or less"):
        finetune(config=long)


def test_an_evaluation_that_the_prompt_does_not_fit_is_refused_before_the_training(
    finetune, shapes, tmp_path, monkeypatch
):
    def never(*_):
        raise AssertionError

    monkeypatch.setattr(TowerObjective, "losses", never)
    shutil.copytree(shapes / "classes", tmp_path / "other")
    (tmp_path / "other" / "red").rename(tmp_path / "other" / "crimson")
    other = f"classes:{tmp_path / 'other'}"
    own = replace(QUICK, prompt=PromptConfig(2, class_specific=True))
    with pytest.raises(DataError, match="class 'crimson' has no prompt"):
        finetune(config=own, evaluate=[other])
    (tmp_path / "other" / "crimson").rename(tmp_path / "other" / "_".join("abcdefghijk"))
    with pytest.raises(DataError, match="class 'a b c d e f g h i j k' does not fit"):
        finetune(evaluate=[other])


def test_a_fine_tuned_run_is_not_fine_tuned_again(tuned, classes):
    with pytest.raises(ArtifactError, match=r"is fine-tuned already\. Name the run"):
        finetune_p4q(tuned[1], classes, shots=3, config=QUICK)


def test_a_model_without_text_tower_is_refused(tuned, run, classes, tmp_path, monkeypatch):
    def none(model):
        message = "the text tower X takes no context vectors"
        raise ModelError(message)

    monkeypatch.setattr(tuning, "token_table", none)
    with pytest.raises(ModelError, match="X takes no context vectors"):
        finetune_p4q(run, classes, shots=3, config=QUICK)
    without = replace(QUICK, prompt=None)
    assert finetune_p4q(run, classes, shots=3, config=without).tuned.learned.prompt is None


@pytest.fixture
def damaged(tuned, tmp_path):
    return shutil.copytree(tuned[1], tmp_path / "damaged")


def test_a_missing_or_changed_file_is_named(damaged):
    file = damaged / "p4q.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    with pytest.raises(ArtifactError, match=r"p4q.safetensors differs from what was written"):
        qkit.load(damaged)
    file.unlink()
    with pytest.raises(ArtifactError, match=r"damaged is damaged: p4q.safetensors cannot be read"):
        qkit.load(damaged)


@pytest.mark.parametrize(
    "change",
    [
        lambda table: table.pop("options"),
        lambda table: table["options"].pop("loss"),
        lambda table: table["options"].update(new=1),
        lambda table: table["options"]["prompt"].update(position="x"),
        lambda table: table.update(classes=3),
    ],
)
def test_a_table_that_does_not_fit_is_an_error_in_one_line(damaged, change):
    file = damaged / "manifest.json"
    manifest = json.loads(file.read_text())
    change(manifest["p4q"])
    file.write_text(json.dumps(manifest))
    with pytest.raises(ArtifactError) as caught:
        qkit.load(damaged)
    assert "\n" not in str(caught.value)


def test_a_run_of_before_loads_as_it_did(run):
    loaded = qkit.load(run)
    assert loaded.learned is None
    assert loaded.clip.prompt is None


def test_resumed_it_is_bit_for_bit_the_uninterrupted_one(finetune, tmp_path, monkeypatch):
    config = replace(QUICK, epochs=4)
    inner, calls = TowerObjective.losses, []

    def stop(self, samples, epoch):
        calls.append(epoch)
        if epoch == 2:
            raise KeyboardInterrupt
        return inner(self, samples, epoch)

    with monkeypatch.context() as patch:
        patch.setattr(TowerObjective, "losses", stop)
        with pytest.raises(KeyboardInterrupt):
            finetune(config=config, checkpoints=tmp_path / "kept")
    with pytest.raises(ArtifactError, match=r"holds an interrupted fine-tuning\. Add --resume"):
        finetune(config=config, checkpoints=tmp_path / "kept")
    with pytest.raises(ArtifactError, match="another model, recipe or data"):
        finetune(config=QUICK, checkpoints=tmp_path / "kept", resume=True)
    resumed = finetune(config=config, checkpoints=tmp_path / "kept", resume=True)
    whole = finetune(config=config)
    assert same(resumed, whole)
    assert resumed.tuned.curve == whole.tuned.curve


def test_there_must_be_something_to_resume(finetune, tmp_path):
    with pytest.raises(ArtifactError, match=r"nothing to resume in .*kept\. Drop --resume"):
        finetune(checkpoints=tmp_path / "kept", resume=True)


def test_a_diverging_loss_stops_keeps_the_last_epoch_and_can_go_on_slower(
    finetune, tmp_path, monkeypatch
):
    inner = TowerObjective.losses

    def spoiled(self, samples, epoch):
        found = inner(self, samples, epoch)
        return found if epoch == 0 else found._replace(loss=found.loss * float("inf"))

    with monkeypatch.context() as patch:
        patch.setattr(TowerObjective, "losses", spoiled)
        fact = r"the loss became inf in step 1 of epoch 2; epoch 1 is kept in .*kept, --resume goes"
        with pytest.raises(TrainingError, match=fact) as caught:
            finetune(checkpoints=tmp_path / "kept")
        assert "smaller --prompt-rate or --adapter-rate" in str(caught.value)
        with pytest.raises(TrainingError, match=r"of epoch 2\. Use a smaller"):
            finetune()
    slower = replace(QUICK, prompt=PromptConfig(4, rate=1e-3))
    resumed = finetune(config=slower, checkpoints=tmp_path / "kept", resume=True)
    assert len(resumed.tuned.curve) == 2
