# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""``python -m qkit.demo.train``: train the demo model from nothing but a seed."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from qkit.cli.console import progress_bars, reported, stdout
from qkit.errors import ArtifactError, ModelError

if TYPE_CHECKING:
    from torch import nn

    from qkit.demo.training.plan import Line


@reported
def train(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for model and log.")],
    seed: Annotated[int, typer.Option(help="Seed of weights and scenes.", min=0)] = 0,
    shorten: Annotated[int, typer.Option(help="Divide the steps by this, to try out.", min=1)] = 1,
    workers: Annotated[int, typer.Option(help="Processes that draw scenes.", min=1)] = 1,
    threads: Annotated[int, typer.Option(help="Threads of torch.", min=1)] = 2,
    device: Annotated[str, typer.Option(help="cpu, or cuda where there is one.")] = "cpu",
    overwrite: Annotated[bool, typer.Option(help="Replace an earlier training in --out.")] = False,
) -> None:
    """Train the demo model, store it and write down what it can do."""
    import torch

    from qkit.clip.loading import load_model
    from qkit.clip.rebuild import rebuild
    from qkit.demo.checkpoint import (
        RECORD,
        WEIGHTS,
        expand_checkpoint,
        read_config,
        write_checkpoint,
    )
    from qkit.demo.training.loop import Watcher
    from qkit.demo.training.plan import Plan
    from qkit.demo.training.record import score, write_record
    from qkit.demo.training.stages import train as run
    from qkit.demo.training.vocabulary import used_tokens

    if not overwrite and (out / RECORD).exists():
        message = f"{out} holds a training. Choose another --out, or pass --overwrite."
        raise ArtifactError(message)
    _make_folder(out)
    torch.set_num_threads(threads)
    torch.manual_seed(seed)
    plan = Plan(seed=seed, workers=workers).shortened(shorten)
    clip = rebuild("demo", read_config())
    _move(clip.model, device)
    with progress_bars() as progress:
        with progress.phase("train", plan.shapes.size + plan.pairs.size) as advance:
            log = run(clip, plan, Watcher(advance, _show))
        write_checkpoint(out / WEIGHTS, clip.model.state_dict(), used_tokens(clip.tokenizer))
        with tempfile.TemporaryDirectory() as folder:
            expand_checkpoint(Path(folder), out / WEIGHTS)
            scores = score(load_model(f"local-dir:{folder}"), progress)
    write_record(out / RECORD, plan, log, scores)
    for part, figures in scores.items():
        stdout().print(part, figures, markup=False)


def _move(model: nn.Module, device: str) -> None:
    try:
        model.to(device)
    except (RuntimeError, AssertionError) as error:  # torch without CUDA asserts
        message = f"cannot train on {device!r}: {str(error).splitlines()[0]}. Use --device cpu."
        raise ModelError(message) from error


def _show(line: Line) -> None:
    losses = ", ".join(f"{name} {value:.3f}" for name, value in line.losses.items())
    stdout().print(f"{line.stage} step {line.step}: {losses} ({line.seconds:.0f} s)", markup=False)


def _make_folder(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        message = f"cannot write to {str(out)!r}: {error.strerror}. Name another folder."
        raise ArtifactError(message) from error


if __name__ == "__main__":
    typer.run(train)
