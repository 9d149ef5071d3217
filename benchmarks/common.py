# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""What the benchmark scripts share: the machine in words, a table, a section of the README."""

from __future__ import annotations

import multiprocessing
import os
import platform
import statistics
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import torch

T = TypeVar("T")
README = Path(__file__).with_name("README.md")
INTEGER = ("amx_int8", "avx512_vnni", "avx_vnni")  # instruction sets


def machine() -> str:
    """Processor, cores, threads and versions, without naming the host."""
    return (
        f"{_processor()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads, "
        f"torch {torch.__version__}, python {platform.python_version()}"
    )


def _processor() -> str:
    """Name, family and model, and what multiplies integers; names alone say little."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().partition("\n\n")[0].splitlines() if path.exists() else []
    pairs = (line.partition(":") for line in lines)
    found = {key.strip(): value.strip() for key, _, value in pairs}
    known = [f"{key.split()[-1]} {found[key]}" for key in ("cpu family", "model") if key in found]
    known += [name for name in INTEGER if name in found.get("flags", "").split()]
    name = found.get("model name", platform.processor())
    return f"{name} ({', '.join(known)})" if known else name


def run_units(
    jobs: int, work: Callable[..., T], units: Sequence[tuple[Any, ...]], *last: Any
) -> list[T]:
    """Results of ``work(*unit, *last, threads)``, ``jobs`` fresh processes at once.

    The cores, or as many as ``OMP_NUM_THREADS`` says, are shared evenly: ``threads`` is what each
    process may use.
    """
    cores = int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1))
    threads = max(1, cores // jobs)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, mp_context=context) as pool:
        waiting = [pool.submit(work, *unit, *last, threads) for unit in units]
        return [one.result() for one in waiting]


def mean_spread(fractions: Sequence[float]) -> str:
    """Mean and sample standard deviation in %, "80.3 ± 0.2"; the mean alone for one value."""
    mean = 100 * statistics.fmean(fractions)
    if len(fractions) < 2:
        return f"{mean:.1f}"
    return f"{mean:.1f} ± {100 * statistics.stdev(fractions):.1f}"


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def write_section(name: str, command: str, body: str) -> None:
    """Replace the section between the markers of ``name`` in benchmarks/README.md."""
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    stamp = datetime.now(UTC).strftime("%Y-%m-%d")
    section = f"{begin}\n`{command}`, {stamp}, {machine()}\n\n{body}\n{end}"
    text = README.read_text(encoding="utf-8")
    if begin in text:
        before, after = text.split(begin)[0], text.split(end)[1]
        text = before + section + after
    else:
        text = text.rstrip() + "\n\n" + section + "\n"
    README.write_text(text, encoding="utf-8")
