# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""``qkit finetune``: give a quantized run its accuracy back by a few trained parameters."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from qkit.cli.console import reported
from qkit.cli.finetuning import check_use, given, run_p4q, show

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
    recipe: Annotated[
        str | None, typer.Option("--recipe", "-r", help="Name or TOML file with a [p4q] table.")
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the data (50).")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Images a step (128).")] = None,
    context: Annotated[int | None, typer.Option(help="Context vectors of the prompt (16).")] = None,
    position: Annotated[
        str | None,
        typer.Option(help="Where the text stands among them: end, middle, front (end)."),
    ] = None,
    class_specific: Annotated[
        bool, typer.Option("--class-specific", help="Vectors of its own for each class.")
    ] = False,
    init: Annotated[
        str | None, typer.Option(help="Phrase to start from, a vector a token; else N(0, 0.02).")
    ] = None,
    adapter_bits: Annotated[int | None, typer.Option(help="Bits of the adapter, 2-8 (8).")] = None,
    ratio: Annotated[
        float | None, typer.Option(help="Share of the adapter in the feature (0.2).")
    ] = None,
    reduction: Annotated[
        int | None, typer.Option(help="How much narrower the adapter is inside (4).")
    ] = None,
    no_prompt: Annotated[
        bool, typer.Option("--no-prompt", help="Learn no prompt: templates, as before.")
    ] = False,
    no_adapter: Annotated[bool, typer.Option("--no-adapter", help="Add no adapter.")] = False,
    task: Annotated[float | None, typer.Option(help="Weight of labels, or of pairs (1).")] = None,
    distill: Annotated[float | None, typer.Option(help="Weight of the float teacher (1).")] = None,
    temperature: Annotated[
        float | None, typer.Option(help="Of both predictions, to distill (1).")
    ] = None,
    released: Annotated[
        bool,
        typer.Option("--released", help="Distill as P4Q's released code does, mistake and all."),
    ] = False,
    teacher_text: Annotated[
        str | None,
        typer.Option(help="What the teacher reads: templates, or the learned prompt (templates)."),
    ] = None,
    templates: Annotated[
        int | None, typer.Option(help="The teacher's templates: 7 or 80 (7).")
    ] = None,
    prompt_rate: Annotated[
        float | None, typer.Option(help="Step size of the prompt (5e-3 * batch size / 20).")
    ] = None,
    adapter_rate: Annotated[
        float | None, typer.Option(help="Step size of the adapter (0.001).")
    ] = None,
    patience: Annotated[
        int | None, typer.Option(help="Stop after so many epochs without a lower training loss.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Of shots, start and order (0).")] = None,
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

    Flags win over the [p4q] table of --recipe, or else of the recipe that the run was made by.
    Without RUN and --data: the demo model at 4 bits.
    """
    from qkit.pipeline.finetune.configured import configured

    said = {
        "epochs": epochs,
        "batch_size": batch_size,
        "patience": patience,
        "seed": seed,
        "templates": templates,
        "prompt": {
            "vectors": context,
            "position": position,
            "class_specific": class_specific or None,
            "init": init,
            "rate": prompt_rate,
        },
        "adapter": {
            "bits": adapter_bits,
            "ratio": ratio,
            "reduction": reduction,
            "rate": adapter_rate,
        },
        "loss": {
            "task": task,
            "distill": distill,
            "temperature": temperature,
            "released": released or None,
            "teacher_text": teacher_text,
        },
    }
    out_of = {"prompt": no_prompt, "adapter": no_adapter}
    changes = {**given(said), **{part: False for part, left in out_of.items() if left}}
    check_use(run, data, out, resume=resume)
    config = configured(run, recipe, changes)
    options = {
        "shots": shots,
        "evaluate": evaluate or [],
        "model": model,
        "device": device,
        "resume": resume,
    }
    show(run_p4q(run, data, out, config, options, overwrite=overwrite), out, as_json=as_json)
