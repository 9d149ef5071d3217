# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Reports through JSON and back, and reports that are damaged or of another version."""

import json
import math
from dataclasses import replace

import pytest

from qkit.calibration.protocol import StageNote
from qkit.errors import ArtifactError
from qkit.report.analyses import Analyses, LayerSensitivity, Parts, Sensitivity
from qkit.report.evaluation import ClassReport, Mistake
from qkit.report.model import VERSION, ModelReport
from qkit.report.partition import PartitionReport


@pytest.fixture
def full(model_report, layer, sdpa, floating, block, space, metric, tensor):
    """A report that holds something of everything."""
    token = tensor(granularity="token", grid_low=None, grid_high=None, step=None, span=None)
    layers = (
        floating(),
        layer(local_sqnr_db=math.inf, weight_sqnr_db=math.inf, errors=None, cause="loses little"),
        sdpa(local_sqnr_db=-3.25, dependency=1.75, search_group=3),
        layer(name="b", tensors=(token,), clipped=None, inherited_sqnr_db=math.inf),
    )
    each = (LayerSensitivity("b", space(logit_kl=0.0), space(scale_drift=1.5)),)
    analyses = Analyses(
        Sensitivity("images:x", "d1", 32, space(), each),
        Parts("images:x", "d1", 32, {"all": space(), "weights": space(churn=0.0)}),
        {"images:y": space(ece_float=0.03, ece_quantized=0.09)},
    )
    stage = StageNote("a.attn", "image", 2, ("a.attn.sdpa", "b"), 1.75, 3, 0.25, 0.125)
    last = replace(stage, name="a.mlp", layers=(), dependency=None, error=0.0)
    partition = PartitionReport((stage, last), {"image": 1.5, "text": None})
    worst = ClassReport("bee", 5, 0.8, 0.2, (Mistake("dog", 2, 104),))
    return model_report(
        metrics=(metric(space=space(), worst_classes=(worst,)), metric(float=None, agreement=None)),
        layers=layers,
        blocks=(block(0, math.inf), block(1)),
        analyses=analyses,
        partition=partition,
    )


@pytest.fixture
def plain(full):
    """The same as plain data, fresh for a test to damage."""
    return json.loads(json.dumps(full.to_dict()))


def test_a_report_comes_back_through_strict_json(full):
    text = json.dumps(full.to_dict(), allow_nan=False)
    assert ModelReport.from_dict(json.loads(text)) == full


def test_an_empty_report_comes_back(model_report):
    empty = model_report(metrics=(), embedding_cosine={})
    assert ModelReport.from_dict(json.loads(json.dumps(empty.to_dict()))) == empty


def test_what_is_exact_is_null_and_so_is_what_a_layer_has_not(full):
    floating, exact, *_ = full.to_dict()["layers"]
    assert floating["local_sqnr_db"] is floating["weight_sqnr_db"] is None
    assert exact["local_sqnr_db"] is exact["weight_sqnr_db"] is exact["errors"] is None
    back = ModelReport.from_dict(full.to_dict())
    assert [each.weight_sqnr_db for each in back.layers[:3]] == [None, math.inf, None]
    assert [each.local_sqnr_db for each in back.layers[:3]] == [math.inf, math.inf, -3.25]
    assert back.blocks[0].local_sqnr_db == math.inf


DAMAGES = {
    "layers[1].made": lambda data: data["layers"][1].pop("made"),
    "layers[2].cosine": lambda data: data["layers"][2].update(cosine="near"),
    "layers[3].tensors[0].values.counts": lambda data: data["layers"][3]["tensors"][0][
        "values"
    ].update(counts=None),
    "layers[0]": lambda data: data["layers"].__setitem__(0, 7),
    "blocks[1].local_sqnr_db": lambda data: data["blocks"][1].update(local_sqnr_db=[]),
    "coverage.total_macs": lambda data: data["coverage"].pop("total_macs"),
    "metrics[0].worst_classes[0].mistakes[0].count": lambda data: data["metrics"][0][
        "worst_classes"
    ][0]["mistakes"][0].pop("count"),
    "partition.stages[1].group": lambda data: data["partition"]["stages"][1].update(group="b"),
    "partition.threshold": lambda data: data["partition"]["threshold"].update(image="x"),
    "analyses.parts.spaces['all'].churn": lambda data: data["analyses"]["parts"]["spaces"][
        "all"
    ].pop("churn"),
}


@pytest.mark.parametrize("place", DAMAGES)
def test_a_damaged_report_names_the_place_and_the_remedy(plain, place):
    DAMAGES[place](plain)
    with pytest.raises(ArtifactError, match="damaged") as raised:
        ModelReport.from_dict(plain)
    assert place.removesuffix(".made") in str(raised.value)
    assert str(raised.value).endswith("Calibrate again.")
    assert "\n" not in str(raised.value)


def test_what_is_left_over_is_refused_by_name(plain):
    plain["layers"][2]["verdict"] = "good"
    with pytest.raises(ArtifactError, match=r"extra fields found \(verdict\) @ \$\.layers\[2\]"):
        ModelReport.from_dict(plain)


@pytest.mark.parametrize(
    ("version", "remedy"),
    [(None, "Calibrate again"), (VERSION - 1, "Calibrate again"), (VERSION + 1, "Upgrade qkit")],
)
def test_other_versions_are_refused_with_the_remedy(plain, version, remedy):
    plain.pop("version")
    if version is not None:
        plain["version"] = version
    with pytest.raises(ArtifactError, match=remedy) as raised:
        ModelReport.from_dict(plain)
    assert f"layout {version or 1}, this qkit reads {VERSION}" in str(raised.value)


def test_the_version_is_looked_at_before_anything_else(model_report):
    with pytest.raises(ArtifactError, match="Upgrade"):
        ModelReport.from_dict({"version": VERSION + 5, "unheard of": 1})
    assert replace(model_report()).to_dict()["version"] == VERSION


@pytest.mark.parametrize(
    "damage",
    [
        lambda report: report["metrics"][0].update(task="cooking"),
        lambda report: report["metrics"][0].update(quantized={}),
        lambda report: report["size"].pop("float_bytes"),
    ],
    ids=["task", "figure", "size"],
)
def test_a_figure_that_every_view_needs_is_missed_at_once(plain, damage):
    damage(plain)
    with pytest.raises(ArtifactError, match=r"damaged: a figure is missing or wrong.*again"):
        ModelReport.from_dict(plain)


def test_what_is_no_number_is_never_written_as_exact(full):
    layers = (replace(full.layers[0], local_sqnr_db=math.nan), *full.layers[1:])
    with pytest.raises(ArtifactError, match="not a number"):
        replace(full, layers=layers).to_dict()
