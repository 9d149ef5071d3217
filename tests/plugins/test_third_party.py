# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""A calibrator that another distribution brings is on the same footing as qkit's own."""

import sys

import pytest

import qkit
from qkit.calibration.registry import (
    calibrator_class,
    create_calibrator,
    list_calibrators,
    option_names,
)
from qkit.errors import RegistryError
from qkit.recipe.overrides import Overrides
from qkit.testing import check_calibrator


def test_it_is_listed_without_being_imported(half):
    (info,) = [info for info in list_calibrators() if info.name == "half"]
    assert (info.target, info.distribution) == ("thirdparty_calibrator:Half", "thirdparty")
    assert half not in sys.modules


def test_the_list_is_sorted_and_holds_qkit_s_own(half):
    names = [info.name for info in list_calibrators()]
    assert names == sorted(names)
    assert {"half", "minmax", "mse", "percentile"} <= set(names)


def test_listing_imports_no_plug_in_even_a_broken_one(install):
    install("broken", "broken_module", "1 / 0\n", {"boom": "broken_module:Boom"})
    assert "boom" in [info.name for info in list_calibrators()]
    assert "broken_module" not in sys.modules


def test_it_is_made_with_its_options(half):
    calibrator = create_calibrator("half", {"share": 0.25})
    assert type(calibrator).__module__ == half
    assert calibrator.share == 0.25
    assert option_names(type(calibrator)) == ("share",)
    assert create_calibrator("half", {}).share == 0.5


def test_its_options_are_checked(half):
    with pytest.raises(RegistryError, match=r"method 'half' has no option 'shar'.*'share'\? It ha"):
        create_calibrator("half", {"shar": 0.25})
    with pytest.raises(RegistryError, match=r"method 'half' refuses its options: share = -1. Use"):
        create_calibrator("half", {"share": -1})


def test_it_keeps_the_contract(half):
    check_calibrator(calibrator_class("half"))


def test_a_calibration_runs_with_it(half, tiny, shapes, tmp_path):
    flags = Overrides(options={"share": 0.75}, samples=6, batch_size=3)
    data = f"captions:{shapes}/captions.csv"
    result = qkit.calibrate(tiny, data, method="half", overrides=flags)
    assert result.report.label == "W8A8 attn8, half"
    assert result.recipe.calibrator.method == "half"
    assert "choose scales (half)" in result.report.timing
    full = qkit.calibrate(tiny, data, method="minmax", overrides=Overrides(samples=6, batch_size=3))
    for mine, other in zip(result.student.layers, full.student.layers, strict=True):
        for point, whole in zip(mine.points, other.points, strict=True):
            assert (point.qparams.scale / whole.qparams.scale).allclose(
                whole.qparams.scale.new_tensor(0.75), rtol=1e-5
            )


def test_a_run_folder_outlives_the_plug_in(half, tiny, shapes, tmp_path, monkeypatch):
    """Scales are stored, so loading does not need the calibrator."""
    data = f"captions:{shapes}/captions.csv"
    result = qkit.calibrate(tiny, data, method="half", overrides=Overrides(samples=4))
    result.save(tmp_path / "run")
    monkeypatch.setattr(sys, "path", [p for p in sys.path if not p.endswith("thirdparty")])
    sys.modules.pop(half, None)
    assert "half" not in [info.name for info in list_calibrators()]
    assert qkit.load(tmp_path / "run").recipe.calibrator.method == "half"
