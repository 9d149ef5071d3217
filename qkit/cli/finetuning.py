# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""What ``qkit finetune p4q`` does with its flags."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from qkit.cli.console import kept, progress_bars, stderr, stdout
from qkit.errors import ArtifactError, DataError

if TYPE_CHECKING:
    from qkit.p4q.config import P4QConfig
    from qkit.pipeline.finetune.result import FinetuneResult


def given(said: Mapping[str, Any]) -> dict[str, Any]:
    """The flags that were given, in the tables of a recipe."""
    tables = {k: given(v) if isinstance(v, Mapping) else v for k, v in said.items()}
    return {key: value for key, value in tables.items() if value is not None and value != {}}


def run_p4q(
    run: Path | None,
    data: str | None,
    out: Path | None,
    config: P4QConfig,
    options: dict[str, Any],
    *,
    overwrite: bool,
) -> FinetuneResult:
    """Train, keep each epoch beside ``out``, and write it when all is done."""
    from qkit.artifact.checkpoints import drop_checkpoints
    from qkit.artifact.folder import check_target
    from qkit.pipeline.finetune.demo import finetune_demo
    from qkit.pipeline.finetune.finetune import finetune_p4q

    if out is not None:
        check_target(out, overwrite)
    partial = None if out is None else out.with_name(f"{out.name}.partial")
    message = f"each epoch is kept in {partial}; the same command with --resume goes on there."
    with progress_bars() as progress, kept(partial, message):
        more = {"config": config, "progress": progress, "checkpoints": partial, **options}
        if run is None or data is None:
            result = finetune_demo(**more)
        else:
            result = finetune_p4q(run, data, **more)
        if out is not None and partial is not None:
            result.save(out, overwrite=overwrite)
            drop_checkpoints(partial)
    return result


def check_use(run: Path | None, data: str | None, out: Path | None, *, resume: bool) -> None:
    """Refuse what is named by half.

    Raises:
        DataError: a run without data, or data without a run.
        ArtifactError: --resume without the --out whose epochs were kept.
    """
    if run is None and data is not None:
        message = f"data {data} are given, but no run. Name the folder of a calibrated run."
        raise DataError(message)
    if run is not None and data is None:
        message = f"run {run} is given, but no data to learn from. Name some with --data."
        raise DataError(message)
    if resume and out is None:
        message = "--resume needs the --out of the training that was interrupted. Name it."
        raise ArtifactError(message)


def show(result: FinetuneResult, out: Path | None, *, as_json: bool) -> None:
    """Print what came of it."""
    from qkit.report.terminal.tuning import print_tuning

    if as_json:
        typer.echo(json.dumps(result.describe(), indent=1))
        return
    print_tuning(result.report, stdout())
    where = f"written to {out}; try: qkit report {out}" if out else "not kept: no --out was given"
    stderr().print(where, markup=False)
