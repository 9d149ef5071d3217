# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""``qkit evaluate``: accuracy of a stored run on other data."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from qkit.cli.console import progress_bars, reported, stdout


@reported
def evaluate(
    run: Annotated[Path, typer.Argument(help="Run folder of `qkit calibrate`.")],
    data: Annotated[
        list[str], typer.Option("--data", "-d", help="classes:DIR or captions:CSV; repeatable.")
    ],
    templates: Annotated[int, typer.Option(help="Zero-shot prompt templates: 7 or 80.")] = 7,
    batch_size: Annotated[int, typer.Option(help="Images at once.", min=1)] = 16,
    skip_bad: Annotated[bool, typer.Option(help="Leave unreadable images out, counted.")] = False,
    runtime: Annotated[
        str | None, typer.Option(help="int8, int4 or exact (else simulated in float).")
    ] = None,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    as_json: Annotated[bool, typer.Option("--json", help="Print figures as JSON.")] = False,
) -> None:
    """Evaluate a run's quantized model: zero-shot accuracy or retrieval."""
    from qkit.nn.tensor_quantizer import Mode
    from qkit.pipeline.evaluate import Evaluator, open_evaluation
    from qkit.pipeline.load import load_run
    from qkit.report.terminal.evaluation import metric_table

    targets = [open_evaluation(source) for source in data]
    loaded = load_run(run, runtime, device)
    with progress_bars() as progress:
        evaluator = Evaluator(
            loaded.clip, (Mode.QUANTIZE,), templates, batch_size, skip_bad, progress
        )
        metrics = [evaluator.run_on(target) for target in targets]
    if as_json:
        typer.echo(json.dumps([asdict(metric) for metric in metrics], indent=1))
        return
    stdout().print(metric_table(metrics))
