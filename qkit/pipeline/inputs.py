# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""From data sources to batches for the two towers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from qkit.calibration.observe import Batch
from qkit.clip.model import ClipModel
from qkit.clip.zero_shot import sample_prompts
from qkit.data import (
    Dataset,
    dataset_digest,
    draw,
    image_batches,
    in_turns,
    join_datasets,
    open_dataset,
    parse_source,
    split_sources,
)
from qkit.errors import DataError


@dataclass(slots=True)
class Skipped:
    """Unreadable images that were left out: file and reason."""

    files: list[tuple[str, str]] = field(default_factory=list)
    _seen: set[Path] = field(default_factory=set)

    def add(self, path: Path, reason: str) -> None:
        """Note one file, once."""
        if path not in self._seen:  # files of different folders may have one name
            self._seen.add(path)
            self.files.append((path.name, reason))


@dataclass(frozen=True, slots=True)
class CalibrationData:
    """The drawn calibration samples, read anew at every pass.

    Attributes:
        source: as the user named it; of several, one string.
        dataset: the drawn samples.
        texts: one text for each of them.
        texts_from: where the texts come from.
        skip_bad: leave unreadable images out instead of stopping.
        skipped: those left out so far.
    """

    source: str
    dataset: Dataset
    texts: tuple[str, ...]
    texts_from: str
    skip_bad: bool
    skipped: Skipped

    @property
    def size(self) -> int:
        """Images plus texts."""
        return len(self.dataset) + len(self.texts)

    def batches(
        self, clip: ClipModel, batch_size: int, limit: int | None = None
    ) -> Iterator[Batch]:
        """Images and texts together, the first ``limit`` of each."""
        samples, texts = self.dataset.samples[:limit], self.texts[:limit]
        device = next(clip.model.parameters()).device
        images = image_batches(
            samples,
            clip.preprocess,
            batch_size,
            skip_bad=self.skip_bad,
            on_skip=self.skipped.add,
        )
        done = 0
        for batch in images:
            part = texts[done : done + batch_size]
            done += len(part)
            tokens = clip.tokenize(part) if part else None
            yield Batch(batch.pixels.to(device), tokens)
        for start in range(done, len(texts), batch_size):  # images were skipped
            yield Batch(None, clip.tokenize(texts[start : start + batch_size]))

    def describe(self) -> dict[str, object]:
        """What a run folder says about its calibration data."""
        return {
            "source": self.source,
            "images": len(self.dataset),
            "texts": len(self.texts),
            "texts_from": self.texts_from,
            "skipped": [{"file": name, "reason": reason} for name, reason in self.skipped.files],
            "digest": dataset_digest(self.dataset),
        }


TEXTS_FROM = {
    "retrieval": "one caption of each image",
    "classification": "open_clip's prompt templates around the classes of the images",
    "images": "open_clip's prompt templates around ImageNet class names, since images have no text",
}


def open_calibration(source: str, samples: int, seed: int, *, skip_bad: bool) -> CalibrationData:
    """Open ``source`` and draw ``samples`` images with one text each.

    Of several sources (see ``split_sources``) each gives an equal share, in turns.

    Raises:
        DataError: see ``qkit.data``; or there are more sources than samples.
    """
    sources = split_sources(source)
    if samples < len(sources) > 1:
        message = f"{samples} samples cannot come from {len(sources)} sources. Draw more."
        raise DataError(message)
    shares = [samples // len(sources) + (i < samples % len(sources)) for i in range(len(sources))]
    drawn = [
        draw(open_dataset(parse_source(one)), share, seed)
        for one, share in zip(sources, shares, strict=True)
    ]
    texts = tuple(in_turns([_texts(part, seed) for part in drawn]))
    texts_from = "; ".join(dict.fromkeys(TEXTS_FROM[part.task] for part in drawn))
    dataset = drawn[0] if len(drawn) == 1 else join_datasets(drawn)
    return CalibrationData(source, dataset, texts, texts_from, skip_bad, Skipped())


def _texts(dataset: Dataset, seed: int) -> tuple[str, ...]:
    if dataset.task == "images":
        return tuple(sample_prompts(len(dataset), seed))
    if dataset.task == "classification":
        names = sorted(
            {dataset.classnames[s.label] for s in dataset.samples if s.label is not None}
        )
        return tuple(sample_prompts(len(dataset), seed, names))
    rng = np.random.default_rng(seed)
    return tuple(s.texts[rng.integers(len(s.texts))] for s in dataset.samples)
