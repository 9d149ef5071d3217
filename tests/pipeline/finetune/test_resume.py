# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Interrupted, resumed, diverging."""

from dataclasses import replace

import pytest

from qkit.errors import ArtifactError, TrainingError
from qkit.p4q.config import PromptConfig
from qkit.pipeline.finetune.objective import TowerObjective
from tests.pipeline.finetune.conftest import QUICK, same


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
