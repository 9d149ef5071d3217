# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Run folders whose tensors do not fit are refused in integers as they are in float."""

import pytest
import torch

import qkit
from qkit.artifact.folder import read_run, write_run
from qkit.errors import ArtifactError
from tests.runtime.conftest import int8

NORM, WEIGHT = "visual.ln_post.weight", "visual.conv1.weight.packed"


@pytest.fixture
def changed(both, tmp_path):
    """A run folder with other tensors, its checksum in order."""

    def write(change):
        folder = read_run(both("W8A8 static").path)
        tensors = {name: tensor.clone() for name, tensor in folder.tensors().items()}
        change(tensors)
        manifest = {k: v for k, v in folder.manifest.items() if k != "files"}
        write_run(tmp_path / "run", tensors, manifest, folder.report)
        return tmp_path / "run"

    return write


CHANGES = {
    "a norm is missing": lambda t: t.pop(NORM),
    "a norm is too short": lambda t: t.update({NORM: t[NORM][:-1].clone()}),
    "integers are missing": lambda t: t.pop(WEIGHT),
    "integers are too few": lambda t: t.update({WEIGHT: t[WEIGHT][:-8].clone()}),
    "a scale is missing": lambda t: t.pop("visual.conv1:input.scale"),
    "a zero point is missing": lambda t: t.pop("visual.conv1:input.zero_point"),
    "a scale is not positive": lambda t: t.update({"visual.conv1:input.scale": torch.tensor(0.0)}),
    "a tensor belongs to nothing": lambda t: t.update(stray=torch.zeros(3)),
}


@pytest.mark.parametrize("what", CHANGES)
def test_what_does_not_fit_is_refused_alike(changed, what):
    path = changed(CHANGES[what])
    for load in (qkit.load, int8):
        with pytest.raises(ArtifactError, match="the stored tensors do not fit the model"):
            load(path)


def test_unchanged_it_loads(changed, pixels):
    with torch.no_grad():
        assert int8(changed(lambda tensors: None)).model.encode_image(pixels).isfinite().all()
