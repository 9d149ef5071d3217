# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""``qkit finetune``: give a quantized run its accuracy back by a few trained parameters."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from qkit.cli.console import kept, progress_bars, reported, stderr, stdout
from qkit.errors import ArtifactError, DataError

if TYPE_CHECKING:
    from qkit.p4q.config import P4QConfig
    from qkit.pipeline.finetune.result import FinetuneResult

finetune = typer.Typer(
    help="Train a few parameters beside a quantized run, which stays as it is.",
    no_args_is_help=True,
)
DATA_HELP = "What to learn from: classes:DIR, captions:CSV or demo:tune."
EVAL_HELP = (
    "Compare float, quantized and P4Q on classes:DIR, captions:CSV or demo:PART; repeatable."
)


@finetune.callback()
def _group() -> None:
    """Train a few parameters beside a quantized run, which stays as it is."""


@finetune.command()
@reported
def p4q(
    run: Annotated[
        Path | None, typer.Argument(help="Run folder of `qkit calibrate`; none is the demo.")
    ] = None,
    data: Annotated[str | None, typer.Option("--data", "-d", help=DATA_HELP)] = None,
    shots: Annotated[int | None, typer.Option(help="Images of each class (16).", min=1)] = None,
    evaluate: Annotated[list[str] | None, typer.Option("--eval", "-e", help=EVAL_HELP)] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Run folder to write.")] = None,
    epochs: Annotated[int, typer.Option(help="Passes over the data.")] = 50,
    batch_size: Annotated[int, typer.Option(help="Images a step.")] = 128,
    context: Annotated[int, typer.Option(help="Context vectors of the prompt.")] = 16,
    position: Annotated[
        str, typer.Option(help="Where the text stands among them: end, middle, front.")
    ] = "end",
    class_specific: Annotated[
        bool, typer.Option("--class-specific", help="Vectors of its own for each class.")
    ] = False,
    init: Annotated[
        str | None, typer.Option(help="Phrase to start from, a vector a token; else N(0, 0.02).")
    ] = None,
    adapter_bits: Annotated[int, typer.Option(help="Bits of the adapter, 2-8.")] = 8,
    ratio: Annotated[float, typer.Option(help="Share of the adapter in the feature.")] = 0.2,
    reduction: Annotated[int, typer.Option(help="How much narrower the adapter is inside.")] = 4,
    no_prompt: Annotated[
        bool, typer.Option("--no-prompt", help="Learn no prompt: templates, as before.")
    ] = False,
    no_adapter: Annotated[bool, typer.Option("--no-adapter", help="Add no adapter.")] = False,
    task: Annotated[float, typer.Option(help="Weight of labels, or of pairs.")] = 1.0,
    distill: Annotated[float, typer.Option(help="Weight of the float teacher.")] = 1.0,
    temperature: Annotated[float, typer.Option(help="Of both predictions, to distill.")] = 1.0,
    released: Annotated[
        bool,
        typer.Option("--released", help="Distill as P4Q's released code does, mistake and all."),
    ] = False,
    teacher_text: Annotated[
        str, typer.Option(help="What the teacher reads: templates, or the learned prompt.")
    ] = "templates",
    templates: Annotated[int, typer.Option(help="The teacher's templates: 7 or 80.")] = 7,
    prompt_rate: Annotated[
        float | None, typer.Option(help="Step size of the prompt (5e-4 * batch size / 20).")
    ] = None,
    adapter_rate: Annotated[float, typer.Option(help="Step size of the adapter.")] = 1e-3,
    patience: Annotated[
        int | None, typer.Option(help="Stop after so many epochs without a lower training loss.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of shots, start and order.")] = 0,
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="Where the float model lies now.")
    ] = None,
    device: Annotated[str, typer.Option(help="Where to train: cpu, cuda.")] = "cpu",
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the last epoch in OUT.partial.")
    ] = False,
    overwrite: Annotated[bool, typer.Option(help="Replace an existing run folder.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
) -> None:
    """P4Q: a learned prompt and a low-bit adapter, taught by the float model.

    Without RUN and --data: the demo model at 4 bits.
    """
    from qkit.p4q.config import AdapterConfig, LossConfig, P4QConfig, PromptConfig

    prompt = PromptConfig(context, position, class_specific, init, prompt_rate)  # type: ignore[arg-type]
    adapter = AdapterConfig(adapter_bits, ratio, reduction, adapter_rate)
    config = P4QConfig(
        prompt=None if no_prompt else prompt,
        adapter=None if no_adapter else adapter,
        loss=LossConfig(task, distill, temperature, released, teacher_text),  # type: ignore[arg-type]
        epochs=epochs,
        batch_size=batch_size,
        patience=patience,
        seed=seed,
        templates=templates,
    )
    options = {
        "shots": shots,
        "evaluate": evaluate or [],
        "model": model,
        "device": device,
        "resume": resume,
    }
    _show(_finetune(run, data, out, config, options, overwrite=overwrite), out, as_json=as_json)


def _finetune(
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

    _check_use(run, data, out, resume=options["resume"])
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


def _check_use(run: Path | None, data: str | None, out: Path | None, *, resume: bool) -> None:
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


def _show(result: FinetuneResult, out: Path | None, *, as_json: bool) -> None:
    from qkit.report.terminal.tuning import print_tuning

    if as_json:
        typer.echo(json.dumps(result.describe(), indent=1))
        return
    print_tuning(result.report, stdout())
    where = f"written to {out}; try: qkit report {out}" if out else "not kept: no --out was given"
    stderr().print(where, markup=False)
