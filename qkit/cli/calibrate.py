# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""``qkit calibrate``: float model and data in, run folder and report out."""

import json
import tomllib
from pathlib import Path
from typing import Annotated, Any

import typer

from qkit.cli.console import kept, progress_bars, reported, stderr, stdout
from qkit.errors import RecipeError

MODEL_HELP = (
    "open_clip model: NAME:TAG, NAME:FILE, NAME:random, local-dir:DIR, hf-hub:ORG/REPO, or demo."
)
DATA_HELP = (
    "Calibration data: captions:CSV, classes:DIR, images:DIR or demo:calib; repeatable, each then "
    "gives its share."
)
SHOWN = 5  # layers in the table that follows a calibration
EVAL_HELP = "Compare float and quantized on classes:DIR, captions:CSV or demo:PART; repeatable."


@reported
def calibrate(
    model: Annotated[str | None, typer.Option("--model", "-m", help=MODEL_HELP)] = None,
    data: Annotated[list[str] | None, typer.Option("--data", "-d", help=DATA_HELP)] = None,
    bits: Annotated[int | None, typer.Option(help="Bits of weights and activations, 2-8.")] = None,
    method: Annotated[str | None, typer.Option(help="Calibrator, see `qkit calibrators`.")] = None,
    recipe: Annotated[str | None, typer.Option("--recipe", "-r", help="Name or TOML file.")] = None,
    evaluate: Annotated[list[str] | None, typer.Option("--eval", "-e", help=EVAL_HELP)] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Run folder to write.")] = None,
    weight_bits: Annotated[int | None, typer.Option(help="Bits of weights.")] = None,
    act_bits: Annotated[int | None, typer.Option(help="Bits of layer inputs.")] = None,
    attn_bits: Annotated[int | None, typer.Option(help="Bits of q, k, v, probabilities.")] = None,
    act_granularity: Annotated[
        str | None, typer.Option(help="Scales of layer inputs: tensor, channel or token.")
    ] = None,
    option: Annotated[
        list[str] | None, typer.Option(help="Calibrator option KEY=VALUE; repeatable.")
    ] = None,
    samples: Annotated[int | None, typer.Option(help="Calibration images (128).")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Images at once (32).")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the draw (0).")] = None,
    templates: Annotated[int, typer.Option(help="Zero-shot prompt templates: 7 or 80.")] = 7,
    min_coverage: Annotated[
        float | None, typer.Option(help="Fail below this fraction of weights or MACs quantized.")
    ] = None,
    skip_bad: Annotated[bool, typer.Option(help="Leave unreadable images out, counted.")] = False,
    overwrite: Annotated[bool, typer.Option(help="Replace an existing run folder.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print report.json instead.")] = False,
) -> None:
    """Quantize a CLIP model and write a run folder with a per-layer error report.

    Without --model and --data: the small model and the scenes that qkit brings along.
    """
    from qkit.artifact.checkpoints import drop_checkpoints
    from qkit.artifact.folder import check_target, read_run
    from qkit.data.source import join_sources
    from qkit.pipeline.calibrate import calibrate as run
    from qkit.recipe.overrides import Overrides
    from qkit.report.model import ModelReport
    from qkit.report.select import Selection, select
    from qkit.report.terminal.summary import print_report

    flags = Overrides(
        bits,
        weight_bits,
        act_bits,
        attn_bits,
        act_granularity,
        method,
        parse_options(option or []),
        samples,
        batch_size,
        seed,
    )
    if out is not None:
        check_target(out, overwrite)
    partial = None if out is None else out.with_name(f"{out.name}.partial")
    message = f"what was done is kept in {partial}; the same command goes on there."
    with progress_bars() as progress, kept(partial, message):
        result = run(
            model,
            join_sources(data) if data else None,
            recipe=recipe,
            overrides=flags,
            evaluate=evaluate or [],
            templates=templates,
            skip_bad=skip_bad,
            min_coverage=min_coverage,
            progress=progress,
            checkpoints=partial,
        )
        if out is not None and partial is not None:
            result.save(out, overwrite=overwrite)
            drop_checkpoints(partial)
    report = result.report.to_dict() if out is None else read_run(out).report
    if as_json:
        typer.echo(json.dumps(report, indent=1))
        return
    whole = ModelReport.from_dict(report)
    print_report(whole, stdout(), select(whole, Selection(top=SHOWN)))
    where = f"written to {out}; try: qkit report {out}" if out else "not kept: no --out was given"
    stderr().print(where, markup=False)


def parse_options(pairs: list[str]) -> dict[str, Any]:
    """Read KEY=VALUE pairs; values are TOML, and text where they are no TOML.

    Raises:
        RecipeError: a pair has no "=".
    """
    options: dict[str, Any] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            message = f"--option {pair!r} is no pair. Write KEY=VALUE, e.g. percentile=99.99."
            raise RecipeError(message)
        try:
            options[key] = tomllib.loads(f"value = {value}")["value"]
        except tomllib.TOMLDecodeError:
            options[key] = value
    return options
