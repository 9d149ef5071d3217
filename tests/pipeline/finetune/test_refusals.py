# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""What a fine-tuning refuses, and damaged run folders."""

import json
import shutil
from dataclasses import replace

import pytest

import qkit
from qkit.errors import ArtifactError, DataError, ModelError
from qkit.p4q.config import PromptConfig
from qkit.pipeline.finetune import tune as tuning
from qkit.pipeline.finetune.finetune import finetune_p4q
from qkit.pipeline.finetune.objective import TowerObjective
from tests.pipeline.finetune.conftest import QUICK


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

    monkeypatch.setattr(tuning, "token_width", none)
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
