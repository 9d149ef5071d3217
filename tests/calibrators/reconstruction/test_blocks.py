# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Weights learned on the tiny model: nearer to float, the same at every run, interruptible."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from calibrators.minmax import MinMax
from calibrators.reconstruction import halfway
from calibrators.reconstruction.blocks import Blocks
from calibrators.rounding.gptq import Gptq
from qkit.calibration.bench import Bench
from qkit.calibration.install import install, install_rounded
from qkit.calibration.memory import Forgetful
from qkit.calibration.observe import observe, set_mode
from qkit.calibration.registry import RECONSTRUCTIONS
from qkit.calibration.session import open_session
from qkit.clip.stages import list_stages
from qkit.errors import RegistryError
from qkit.nn.tensor_quantizer import Mode
from qkit.pipeline.student import give_points
from qkit.recipe import Recipe, override
from qkit.recipe.overrides import Overrides

QUICK = Blocks(samples=8, batch=4, iterations=12, tower=24)


def silent(done, **figures):
    """Swallows progress."""


class Notebook(dict):
    """A memory that lasts as long as the test."""

    def recall(self, name):
        return self.get(name)

    def keep(self, name, tensors):
        self[name] = tensors


@pytest.fixture
def calibrated(student, samples):
    """The tiny model at 3 bits, rounded by GPTQ, and its parts on the bench."""

    def calibrated(**flags):
        given = flags or {"bits": 3, "act_granularity": "token"}
        give_points(student, override(Recipe(), Overrides(**given)))
        observe(student.model, samples, silent)
        install(
            student.model, MinMax().calibrate(open_session(student.model, student.layers), silent)
        )
        stages = {
            "half": list_stages(student.blocks, student.layers, halves=True),
            "block": list_stages(student.blocks, student.layers, halves=False),
        }
        bench = Bench(student.model, student.layers, stages, lambda n: samples, 10.0)
        install_rounded(student.model, Gptq(samples=8).round(bench, silent))
        return SimpleNamespace(bench=bench, model=student.model, layers=student.layers)

    return calibrated


def distances(model, samples):
    """1 - cosine of both towers' embeddings to the float ones, mean over the samples."""
    found = {}
    for mode in (Mode.OFF, Mode.QUANTIZE):
        set_mode(model, mode)
        with torch.no_grad():
            images = torch.cat([model.encode_image(b.images) for b in samples])
            texts = torch.cat([model.encode_text(b.texts) for b in samples])
        found[mode] = (F.normalize(images, dim=-1), F.normalize(texts, dim=-1))
    pairs = zip(*found.values(), strict=True)
    return [float((1 - (a * b).sum(-1)).mean()) for a, b in pairs]


@pytest.mark.parametrize(
    "flags", [{}, {"bits": 3}, {"weight_bits": 3, "act_granularity": "channel"}]
)
def test_both_towers_come_nearer_to_the_float_ones(calibrated, samples, flags):
    made = calibrated(**flags)
    before = distances(made.model, samples)
    found = QUICK.reconstruct(made.bench, Forgetful(), silent)
    install_rounded(made.model, found)
    after = distances(made.model, samples)
    assert all(new < 0.9 * old for old, new in zip(before, after, strict=True))


def test_blocks_alone_help_too(calibrated, samples):
    made = calibrated()
    before = distances(made.model, samples)
    options = replace(QUICK, tower=0, iterations=40)
    install_rounded(made.model, options.reconstruct(made.bench, Forgetful(), silent))
    assert sum(distances(made.model, samples)) < sum(before)


def test_all_weights_but_token_tables_are_learned_on_their_own_grids(calibrated):
    made = calibrated()
    found = QUICK.reconstruct(made.bench, Forgetful(), silent)
    weighted = [la for la in made.layers if la.weight_quantizer and la.kind != "embedding"]
    assert set(found) == {la.weight_quantizer.point for la in weighted}
    for layer in weighted:
        spec, levels = (
            layer.weight_quantizer.spec,
            found[layer.weight_quantizer.point].rounding.levels,
        )
        assert levels.shape == layer.weight_shape
        assert spec.quant_min <= int(levels.min()) <= int(levels.max()) <= spec.quant_max


def test_the_float_model_stays_as_it_was(calibrated, samples):
    made = calibrated()
    names = {n for n, _ in made.model.named_parameters()}
    before = {n: p.clone() for n, p in made.model.named_parameters()}
    QUICK.reconstruct(made.bench, Forgetful(), silent)
    assert {n for n, _ in made.model.named_parameters()} == names
    assert all(
        torch.equal(p, before[n]) and p.grad is None for n, p in made.model.named_parameters()
    )
    assert all(p.requires_grad for p in made.model.parameters())


@pytest.mark.parametrize("dropped", [0.0, 0.5])
def test_it_gives_the_same_at_every_run_and_leaves_chance_alone(calibrated, dropped):
    options, results, draws = replace(QUICK, dropped=dropped), [], []
    for _ in range(2):
        made = calibrated()
        torch.manual_seed(3)
        results.append(options.reconstruct(made.bench, Forgetful(), silent))
        draws.append(torch.rand(1).item())
    first, second = results
    assert draws[0] == draws[1]
    for point, weight in first.items():
        assert torch.equal(weight.rounding.levels, second[point].rounding.levels)
        assert torch.equal(weight.qparams.scale, second[point].qparams.scale)
        assert torch.equal(weight.rounding.correction, second[point].rounding.correction)


class Stopped(Exception):
    """Somebody pressed Ctrl-C."""


@pytest.mark.parametrize("tower", ["image", "text"])
def test_interrupted_within_a_tower_it_goes_on_to_the_same_result(calibrated, tower, monkeypatch):
    monkeypatch.setattr(halfway, "EVERY", 5)
    whole = QUICK.reconstruct(calibrated().bench, Forgetful(), silent)
    memory = Notebook()

    def interrupt(count, **figures):
        kept = memory.get(f"{tower}.halfway")
        if kept is not None and int(kept["done"]) == 15:
            raise Stopped

    with pytest.raises(Stopped):
        QUICK.reconstruct(calibrated().bench, memory, interrupt)
    assert tower not in memory
    again = QUICK.reconstruct(calibrated().bench, memory, silent)
    for point, weight in whole.items():
        assert torch.equal(weight.rounding.levels, again[point].rounding.levels)
        assert torch.equal(weight.qparams.scale, again[point].qparams.scale)
        assert torch.equal(weight.rounding.correction, again[point].rounding.correction)


@pytest.mark.parametrize("kept", [1, 3, 5])
def test_interrupted_it_goes_on_to_the_same_result(calibrated, kept):
    whole = QUICK.reconstruct(calibrated().bench, Forgetful(), silent)
    memory, done = Notebook(), []

    def interrupt(count, **figures):
        if len(memory) == kept:
            raise Stopped

    with pytest.raises(Stopped):
        QUICK.reconstruct(calibrated().bench, memory, interrupt)
    made = calibrated()
    again = QUICK.reconstruct(made.bench, memory, lambda n, **_: done.append(n))
    assert sum(done) == QUICK.work(made.bench)
    assert any(count > 1 for count in done)  # recalled at once
    for point, weight in whole.items():
        assert torch.equal(weight.rounding.levels, again[point].rounding.levels)
        assert torch.equal(weight.qparams.scale, again[point].qparams.scale)


def test_products_are_made_in_half_precision_unless_that_is_not_wanted(calibrated, monkeypatch):
    learned = {}
    for half, there in ((True, True), (False, True), (True, False)):
        made = calibrated()
        with monkeypatch.context() as patch:
            patch.setattr(torch.cpu, "get_capabilities", lambda there=there: {"bf16": there})
            found = replace(QUICK, half=half).reconstruct(made.bench, Forgetful(), silent)
        learned[half, there] = [one.qparams.scale for one in found.values()]
    in_half, unwanted, missing = learned.values()
    assert all(torch.equal(a, b) for a, b in zip(unwanted, missing, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(in_half, missing, strict=True))


def test_progress_counts_every_step(calibrated):
    made, done = calibrated(), []
    QUICK.reconstruct(made.bench, Forgetful(), lambda n, **figures: done.append((n, figures)))
    assert sum(n for n, _ in done) == QUICK.work(made.bench) == 4 * 12 + 2 * 24
    assert all(figures["loss"] >= 0 for _, figures in done)


@pytest.mark.parametrize(
    ("options", "fact"),
    [
        ({"samples": 0}, "samples = 0 is not possible. Use 1 or more"),
        ({"batch": 0}, "batch = 0 is not possible. Use 1 or more"),
        ({"tower": -1}, "tower = -1 is not possible. Use 0 or more"),
        ({"tower_fine": -1.0}, "tower_fine = -1.0 is not possible. Use a positive number"),
        ({"streams": -1.0}, "streams = -1.0 is not possible. Use 0 or more"),
        ({"rate": 0}, "rate = 0 is not possible. Use a positive number"),
        ({"dropped": 1.0}, "dropped = 1.0 is not possible. Use 0, or more and less than 1"),
        ({"samplse": 1}, "no option 'samplse'"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, fact):
    with pytest.raises(RegistryError, match=fact):
        RECONSTRUCTIONS.create("blocks", options)
