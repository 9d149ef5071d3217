# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Zero-shot accuracy and retrieval of a model, quantized and in float, on the same images."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from qkit.calibration.observe import set_mode
from qkit.clip.model import ClipModel, logit_scale
from qkit.clip.zero_shot import TEXT_BATCH, class_embeddings, templates
from qkit.data import Dataset, Sample, image_batches, open_dataset, parse_source
from qkit.errors import DataError
from qkit.nn.tensor_quantizer import Mode
from qkit.pipeline.inputs import Skipped
from qkit.progress import Progress, Silent
from qkit.report.classes import worst_classes
from qkit.report.evaluation import ClassReport, Metric
from qkit.report.metrics import classification, retrieval, top_agreement
from qkit.report.space import Embeddings, Space, compare_spaces

Pair = dict[Mode, Tensor]
"""The same thing of the float model (OFF) and of the quantized one (QUANTIZE)."""


@dataclass(frozen=True, slots=True)
class _Found:
    """What came out on one dataset: figures, score tables and text features by mode, labels."""

    figures: Mapping[Mode, Any]
    scores: Mapping[Mode, list[Tensor]]
    texts: Pair
    labels: Tensor | None


@dataclass(slots=True)
class Evaluator:
    """Evaluates one model on any number of sources; class embeddings are made once each.

    Attributes:
        clip: a calibrated model.
        modes: QUANTIZE alone, or OFF as well to compare with the float model it came from.
        template_count: 7 or 80 prompt templates.
        batch_size: images at once.
        skip_bad: leave unreadable images out instead of stopping.
        progress: who shows how far it is.
    """

    clip: ClipModel
    modes: tuple[Mode, ...] = (Mode.OFF, Mode.QUANTIZE)
    template_count: int = 7
    batch_size: int = 16
    skip_bad: bool = False
    progress: Progress = field(default_factory=Silent)
    _classes: dict[tuple[str, ...], Pair] = field(default_factory=dict)

    def run(self, source: str) -> Metric:
        """Evaluate on ``source``.

        Raises:
            DataError: the data are unusable, or ``images:``, which has nothing to compare with.
        """
        return self.run_on(open_evaluation(source))

    @torch.no_grad()
    def run_on(self, dataset: Dataset) -> Metric:
        """Evaluate on an open dataset."""
        skipped = Skipped()
        images, kept = self._images(dataset, skipped)
        if dataset.task == "classification":
            found = self._classify(dataset, images, kept)
        else:
            found = self._retrieve(images, kept)
        scores, both = found.scores, Mode.OFF in self.modes
        return Metric(
            data=str(dataset.source),
            task=dataset.task,
            float=found.figures[Mode.OFF] if both else None,
            quantized=found.figures[Mode.QUANTIZE],
            agreement=top_agreement(scores[Mode.OFF], scores[Mode.QUANTIZE]) if both else None,
            samples=len(kept),
            skipped=len(skipped.files),
            space=self._space(images, found) if both else None,
            worst_classes=self._worst_classes(dataset, found, kept) if both else (),
        )

    def _classify(self, dataset: Dataset, images: Pair, kept: Sequence[Sample]) -> _Found:
        labels = torch.tensor([sample.label for sample in kept])
        classes = self._class_embeddings(dataset.classnames)
        figures = {m: classification(images[m], classes[m], labels) for m in self.modes}
        scores = {m: [images[m] @ classes[m].T] for m in self.modes}
        return _Found(figures, scores, classes, labels)

    def _retrieve(self, images: Pair, kept: Sequence[Sample]) -> _Found:
        captions = [text for sample in kept for text in sample.texts]
        owner = torch.tensor([i for i, sample in enumerate(kept) for _ in sample.texts])
        texts = self._texts(captions)
        figures = {m: retrieval(images[m], texts[m], owner) for m in self.modes}
        tables = {m: images[m] @ texts[m].T for m in self.modes}
        return _Found(figures, {m: [table, table.T] for m, table in tables.items()}, texts, None)

    def _space(self, images: Pair, found: _Found) -> Space:
        before, after = (
            Embeddings(images[mode], found.texts[mode]) for mode in (Mode.OFF, Mode.QUANTIZE)
        )
        return compare_spaces(before, after, logit_scale(self.clip.model), found.labels)

    def _worst_classes(
        self, dataset: Dataset, found: _Found, kept: Sequence[Sample]
    ) -> tuple[ClassReport, ...]:
        if found.labels is None:
            return ()
        before, after = (found.scores[m][0].argmax(-1) for m in (Mode.OFF, Mode.QUANTIZE))
        place = {id(sample): index for index, sample in enumerate(dataset.samples)}
        places = [place[id(sample)] for sample in kept]
        return worst_classes(before, after, found.labels, dataset.classnames, places)

    def _images(self, dataset: Dataset, skipped: Skipped) -> tuple[Pair, list[Sample]]:
        model: Any = self.clip.model
        batches = image_batches(
            dataset.samples,
            self.clip.preprocess,
            self.batch_size,
            skip_bad=self.skip_bad,
            on_skip=skipped.add,
        )
        kept: list[Sample] = []
        parts: list[Pair] = []
        with self.progress.phase(
            f"encode images of {dataset.source.path.name}", len(dataset)
        ) as advance:
            for batch in batches:
                pixels = batch.pixels.to(next(model.parameters()).device)
                parts.append({m: _unit(model.encode_image(pixels)) for m in self._each_mode()})
                kept += batch.samples
                advance(len(pixels), **_agreement(parts[-1]))
        return _join(parts), kept

    def _texts(self, texts: Sequence[str]) -> Pair:
        model: Any = self.clip.model
        parts: list[Pair] = []
        with self.progress.phase("encode captions", len(texts)) as advance:
            for start in range(0, len(texts), TEXT_BATCH):
                tokens = self.clip.tokenize(texts[start : start + TEXT_BATCH])
                parts.append({m: _unit(model.encode_text(tokens)) for m in self._each_mode()})
                advance(len(tokens), **_agreement(parts[-1]))
        return _join(parts)

    def _class_embeddings(self, classnames: tuple[str, ...]) -> Pair:
        if classnames not in self._classes:
            prompts = templates(self.template_count)
            total = len(classnames) * len(prompts) * len(self.modes)
            with self.progress.phase("encode class prompts", total) as advance:
                self._classes[classnames] = {
                    m: class_embeddings(self.clip, classnames, prompts, advance).cpu()
                    for m in self._each_mode()
                }
        return self._classes[classnames]

    def _each_mode(self) -> Iterator[Mode]:
        """Step through the modes; the model ends quantized, also when a step fails."""
        try:
            for mode in self.modes:
                set_mode(self.clip.model, mode)
                yield mode
        finally:
            set_mode(self.clip.model, Mode.QUANTIZE)


def open_evaluation(source: str) -> Dataset:
    """Open a source that has something to compare with.

    Raises:
        DataError: it is unusable, or of kind ``images:``.
    """
    dataset = open_dataset(parse_source(source))
    if dataset.task == "images":
        message = f"{source} has neither labels nor captions. Evaluate on classes: or captions:."
        raise DataError(message)
    return dataset


def _unit(features: Tensor) -> Tensor:
    return F.normalize(features.float(), dim=-1).cpu()


def _agreement(features: Pair) -> dict[str, float]:
    """How close float and quantized features of the last batch are, to be shown."""
    if Mode.OFF not in features:
        return {}
    return {"cosine": float((features[Mode.OFF] * features[Mode.QUANTIZE]).sum(-1).mean())}


def _join(parts: Sequence[Pair]) -> Pair:
    return {mode: torch.cat([part[mode] for part in parts]) for mode in parts[0]}
