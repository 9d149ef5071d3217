# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""From the command line to a run folder and back."""

import json

import pytest

from qkit.runtime.kernels import RUNTIMES

LAYER_KEYS = {
    "name",
    "tower",
    "kind",
    "weight_bits",
    "act_bits",
    "weight_sqnr_db",
    "local_sqnr_db",
    "inherited_sqnr_db",
    "cumulative_sqnr_db",
    "made",
    "cosine",
    "clipped",
    "tensors",
    "trials",
    "cause",
    "evidence",
    "remedy",
}


@pytest.fixture
def first_run(qkit, calibrate_args, shapes, tmp_path):
    out = tmp_path / "runs" / "first"
    evals = [f"--eval=classes:{shapes / 'classes'}", f"--eval=captions:{shapes / 'captions.csv'}"]
    result = qkit(*calibrate_args, "--bits=4", "--method=mse", *evals, f"--out={out}")
    assert result.exit_code == 0, result.output
    return out, result


def test_calibrate_writes_the_three_files_and_prints_the_report(first_run):
    out, result = first_run
    assert {p.name for p in out.iterdir()} == {"model.safetensors", "manifest.json", "report.json"}
    assert "W4A4 attn8, mse" in result.stdout
    assert "layers, worst first: 5 of 32" in result.stdout
    assert "of MACs" in result.stdout
    assert f"qkit report {out}" in " ".join(result.stderr.split())


def test_report_json_holds_what_was_promised(first_run, shapes):
    out, _ = first_run
    report = json.loads((out / "report.json").read_text())
    classes, captions = report["metrics"]
    assert classes["data"] == f"classes:{shapes / 'classes'}"
    assert classes["task"] == "classification"
    assert set(classes["float"]) == set(classes["quantized"]) == {"top1", "top5"}
    assert captions["task"] == "retrieval"
    assert set(captions["quantized"]["image_to_text"]) == {"r1", "r5", "r10"}
    assert set(captions["float"]) == {"image_to_text", "text_to_image"}
    assert 0 <= captions["agreement"] <= 1
    assert set(report["embedding_cosine"]) == {"image", "text"}
    assert report["coverage"]["macs"] == 1.0
    assert 0.9 < report["coverage"]["weights"] < 1.0
    assert {item["what"] for item in report["coverage"]["left_float"]} >= {"biases", "LayerNorm"}
    assert report["size"]["quantized_bytes"] == (out / "model.safetensors").stat().st_size
    assert report["size"]["quantized_bytes"] < report["size"]["float_bytes"] / 6
    assert {"load model", "observe calibration data"} <= set(report["timing"])
    assert all(set(layer) >= LAYER_KEYS for layer in report["layers"])
    assert {layer["tower"] for layer in report["layers"]} == {"image", "text"}
    assert all(
        layer["cause"] and layer["evidence"] and layer["remedy"] for layer in report["layers"]
    )
    assert [(block["tower"], block["index"]) for block in report["blocks"]] == [
        *(("image", 0), ("image", 1)),
        *(("text", 0), ("text", 1)),
    ]
    assert 0 < classes["space"]["image_cosine"] < 1
    assert captions["space"]["ece_float"] is None
    assert report["calibration"]["measured"] == 6
    assert report["analyses"] == {"sensitivity": None, "parts": None, "spaces": {}}


def test_manifest_says_how_it_was_made(first_run):
    out, _ = first_run
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["format"] == 1
    assert manifest["seed"] == 0
    assert manifest["recipe"]["calibrator"] == {"method": "mse"}
    assert manifest["recipe"]["rule"][0]["weight"]["bits"] == 4
    assert manifest["recipe"]["rule"][0]["attention"]["bits"] == 8
    assert len(manifest["data"]["digest"]) == 64
    assert {"torch", "open_clip_torch", "qkit-clip"} <= set(manifest["versions"])


def test_report_shows_the_run_again(first_run, qkit):
    out, _ = first_run
    result = qkit("report", out, "--top=3")
    assert result.exit_code == 0
    assert "layers, worst first: 3 of" in result.stdout
    everything = qkit("report", out, "--all")
    assert everything.stdout.count("c_proj") == 4 + 1  # four blocks, and perhaps a worst layer
    assert json.loads(qkit("report", out, "--json").stdout)["label"] == "W4A4 attn8, mse"


def test_report_fits_80_columns(first_run, qkit, monkeypatch):
    out, _ = first_run
    monkeypatch.setenv("COLUMNS", "80")
    lines = qkit("report", out, "--all").stdout.splitlines()
    assert max(map(len, lines)) <= 80


def test_evaluate_gives_the_figures_of_the_report(first_run, qkit, shapes):
    out, _ = first_run
    stored = json.loads((out / "report.json").read_text())["metrics"][0]
    result = qkit("evaluate", out, f"--data=classes:{shapes / 'classes'}", "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)[0]
    assert found["quantized"] == stored["quantized"]
    assert found["float"] is found["space"] is None


def test_evaluate_in_integers(tmp_path, calibrate_args, qkit, shapes):
    out, data = tmp_path / "run", f"--data=classes:{shapes / 'classes'}"
    assert qkit(*calibrate_args, "--bits=8", "--method=minmax", f"--out={out}").exit_code == 0
    found = {
        name: json.loads(qkit("evaluate", out, data, "--json", f"--runtime={name}").stdout)[0]
        for name in RUNTIMES
    }
    assert len({one["quantized"]["top1"] for one in found.values()}) == 1


def test_evaluate_refuses_an_unknown_runtime(first_run, qkit, shapes):
    out, _ = first_run
    result = qkit("evaluate", out, f"--data=classes:{shapes / 'classes'}", "--runtime=int9")
    assert result.exit_code == 1
    assert "unknown runtime 'int9'. Use one of: int8, int4, exact." in " ".join(
        result.stderr.split()
    )


def test_json_output_is_the_stored_report(qkit, calibrate_args, tmp_path):
    out = tmp_path / "run"
    result = qkit(*calibrate_args, "--bits=8", "--method=minmax", f"--out={out}", "--json")
    assert json.loads(result.stdout) == json.loads((out / "report.json").read_text())


def test_bits_of_each_kind_are_set_apart(qkit, calibrate_args):
    flags = ["--weight-bits=3", "--act-bits=6", "--attn-bits=5", "--act-granularity=token"]
    result = qkit(*calibrate_args, *flags, "--json")
    report = json.loads(result.stdout)
    assert report["label"] == "W3A6 attn5 per token, mse"
    linear = next(layer for layer in report["layers"] if layer["kind"] == "linear")
    core = next(layer for layer in report["layers"] if layer["kind"] == "attention")
    assert linear["operands"] == {"weight": 3, "input": 6}
    assert core["operands"] == dict.fromkeys(("query", "key", "value", "probs"), 5)


def test_calibrators_and_recipes_are_listed(qkit):
    methods = json.loads(qkit("calibrators", "--json").stdout)
    assert {"minmax", "percentile", "mse"} <= {row["name"] for row in methods}
    percentile = next(row for row in methods if row["name"] == "percentile")
    assert percentile["options"] == {"percentile": 99.999}
    assert "w8a8-mse" in qkit("recipes").stdout


def test_doctor_finds_nothing_wrong(qkit):
    result = qkit("doctor")
    assert result.exit_code == 0, result.output
    assert "bit for bit" in result.stdout
    assert "no " not in [line[:3] for line in result.stdout.splitlines()]


def test_several_data_share_the_samples_and_stay_in_the_run(qkit, calibrate_args, shapes, tmp_path):
    out = tmp_path / "run"
    more = f"classes:{shapes / 'classes'}"
    result = qkit(*calibrate_args, f"--data={more}", "--method=minmax", f"--out={out}")
    assert result.exit_code == 0, result.output
    calibration = json.loads((out / "report.json").read_text())["calibration"]
    assert calibration["source"] == f"captions:{shapes / 'captions.csv'} + {more}"
    assert calibration["images"] == calibration["texts"] == 6
    analysed = qkit("report", out, "--parts")  # opens the same pairs again
    assert analysed.exit_code == 0, analysed.output
