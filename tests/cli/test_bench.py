# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""``qkit bench``: a table of models that really run; nothing of it is compared with a time."""

import json
from pathlib import Path

import pytest
import torch

import qkit as library
from qkit.nn.layer import QuantLayer
from qkit.pipeline.bench import contenders
from qkit.pipeline.bench.bench import bench
from qkit.pipeline.bench.memory import memory_of
from qkit.recipe import Recipe, SchemeRule
from qkit.runtime.kernels import missing_kernel
from qkit.spec import Granularity, QuantSpec, Scheme
from tests.cli.conftest import one_line_error

QUICK = ("--repeats=2", "--threads=1", "--no-memory")
ROWS = [(what, n, model) for what in contenders.WHAT for n in (1, 2) for model in contenders.MODELS]


@pytest.fixture(autouse=True)
def _kernels():
    if (missing := missing_kernel()) is not None:
        pytest.skip(missing)


def test_the_table_shows_bf16_beside_int8_and_what_is_in_float(qkit, saved):
    done = qkit("bench", saved, "--batch-size=2", "--only=image", *QUICK)
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    assert lines[0].strip() == "1 threads, 2 repeats after 1"
    at = next(i for i, line in enumerate(lines) if line.startswith("image"))
    names = [line.replace("image", "").split() for line in lines[at : at + 3]]
    assert [names[0][1], names[1][0], names[2][0]] == ["fp32", "bf16", "int8"]
    said = " ".join(done.stdout.split())
    assert "int8: 4 of 32 layers compute in float (4: its two products are simulated" in said
    assert "image, batch 2" in done.stderr


def test_json_has_every_row_and_the_sizes(qkit, saved):
    done = qkit("bench", saved, "-b", 1, "-b", 2, *QUICK, "--json")
    report = json.loads(done.stdout)
    assert [(row["what"], row["batch"], row["model"]) for row in report["rows"]] == ROWS
    for row in report["rows"]:
        assert row["per_second"] == pytest.approx(row["batch"] / row["wall"]["median"])
        assert row["model"] != "fp32" or row["speedup"] == 1.0
    files = {name: part["file"] for name, part in report["footprints"].items()}
    assert files["int8"] == (Path(saved) / "model.safetensors").stat().st_size
    assert files["fp32"] == 2 * files["bf16"] > 6 * files["int8"]
    assert {part["peak"] for part in report["footprints"].values()} == {None}
    assert (report["threads"], report["repeats"], report["layers"]) == (1, 2, 32)


def test_every_model_gets_the_same_batch_and_none_is_simulated(saved, monkeypatch):
    seen = []

    def encode(model, batch):
        seen.append((model, batch.tower, tuple(batch.data.shape)))
        return torch.zeros(1)

    monkeypatch.setattr(contenders, "encode", encode)
    run, models = contenders.load_all(saved)
    for what in contenders.WHAT:
        for work in contenders.models_by_name(
            models, contenders.make_batch(run.clip, what, 3)
        ).values():
            work()
    assert [m for m, *_ in seen] == 3 * list(models.values())
    assert [rest for _, *rest in seen] == 3 * [["image", (3, 3, 32, 32)]] + 6 * [["text", (3, 16)]]
    dtypes = [next(model.parameters()).dtype for model in models.values()]
    assert dtypes == [torch.float32, torch.bfloat16, torch.float32]
    parts = [part for model in models.values() for part in model.modules()]
    assert not [part for part in parts if isinstance(part, QuantLayer)]


def test_full_texts_end_where_the_context_does(tiny):
    tokens = contenders.make_batch(tiny, "full texts", 2).data
    assert tokens.argmax(1).tolist() == [15, 15]


def test_memory_of_the_run_in_a_process_of_its_own(saved):
    held, peak = memory_of("int8", saved, 1, 1)
    assert 0 < held <= peak


def test_a_run_without_integer_products_has_no_speed(qkit, save_run):
    recipe = Recipe((SchemeRule("*", scheme=Scheme(QuantSpec(8, symmetric=True), None)),))
    path = save_run(bits=None, recipe=recipe, overrides=library.Overrides(samples=4))
    one_line_error(qkit("bench", path, *QUICK), "no layer of", "its input stays in float")


def test_packed_weights_under_float_inputs_are_timed(qkit, save_run):
    weight = QuantSpec(4, symmetric=True, granularity=Granularity.CHANNEL)
    recipe = Recipe((SchemeRule("*", scheme=Scheme(weight, None)),))
    path = save_run(bits=None, recipe=recipe, overrides=library.Overrides(samples=4))
    report = json.loads(qkit("bench", path, "-b", 2, "--only=image", *QUICK, "--json").stdout)
    assert [row["model"] for row in report["rows"]] == ["fp32", "bf16", "int4"]
    assert (report["runtime"], list(report["footprints"])) == ("int4", ["fp32", "bf16", "int4"])
    held, peak = memory_of("int4", path, 1, 1)
    assert 0 < held <= peak


def test_unknown_names(qkit, saved, tmp_path):
    one_line_error(qkit("bench", saved, "--only=images", *QUICK), "'images'. Did you mean 'image'?")
    one_line_error(qkit("bench", tmp_path, *QUICK), "is no run folder")


@pytest.mark.parametrize("empty", [{"batch_sizes": ()}, {"what": ()}, {"repeats": 0}])
def test_nothing_to_time(saved, empty):
    with pytest.raises(library.QkitError, match="leave nothing to time"):
        bench(saved, **empty)


@pytest.mark.backends
def test_an_export_joins_the_table(qkit, saved, tmp_path):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    out = tmp_path / "out"
    made = qkit("export", saved, "--format=onnx", f"--out={out}", "--samples=3")
    assert made.exit_code == 0, made.output
    done = qkit("bench", saved, "-b", 2, *QUICK, f"--export={out}", "--json")
    report = json.loads(done.stdout)
    names = [*contenders.MODELS, "onnx"]
    assert [row["model"] for row in report["rows"]] == len(contenders.WHAT) * names
    files = sum(file.stat().st_size for file in out.glob("*.onnx"))
    assert report["footprints"]["onnx"]["file"] == files
    held, peak = memory_of("onnx", saved, 1, 1, out)
    assert 0 < held <= peak
    _refused(qkit, saved, out)


def _refused(qkit, saved, out):
    proof = json.loads((out / "export.json").read_text())
    (out / "export.json").write_text(json.dumps({**proof, "passed": False}))
    one_line_error(qkit("bench", saved, *QUICK, f"--export={out}"), "failed its proof")
    (out / "export.json").write_text(json.dumps({**proof, "source": "0"}))
    one_line_error(qkit("bench", saved, *QUICK, f"--export={out}"), "an export of another run")
    (out / "export.json").write_text("{}")
    one_line_error(qkit("bench", saved, *QUICK, f"--export={out}"), "is damaged", "format")
    (out / "export.json").unlink()
    one_line_error(qkit("bench", saved, *QUICK, f"--export={out}"), "is no export folder")
