# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Zero-shot accuracy and retrieval of a model, quantized and in float, on the same images."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from qkit.calibration.observe import set_mode
from qkit.clip.model import ClipModel, logit_scale
from qkit.clip.zero_shot import TEXT_BATCH
from qkit.data import Dataset, Sample, image_batches, open_dataset, parse_source
from qkit.errors import DataError
from qkit.nn.tensor_quantizer import Mode
from qkit.pipeline.inputs import Skipped
from qkit.pipeline.texts import encode_captions, encode_classes
from qkit.progress import Progress, Silent
from qkit.report.classes import worst_classes
from qkit.report.evaluation import ClassReport, Metric
from qkit.report.metrics import classification, retrieval, top_agreement
from qkit.report.space import Embeddings, Space, compare_spaces

Pair = dict[Mode, Tensor]
"""The same thing of the float model (OFF) and of the quantized one (QUANTIZE)."""


@dataclass(frozen=True, slots=True, eq=False)
class EncodedImages:
    """The images of a dataset as both models see them.

    Attributes:
        dataset: whose.
        features: ``(N, dim)`` as the image tower gives them, not normalised.
        kept: the N samples; unreadable ones are left out.
        skipped: those.
    """

    dataset: Dataset
    features: Pair
    kept: tuple[Sample, ...]
    skipped: Skipped


class Scored(NamedTuple):
    """One evaluation, and the mean cosine of images and their own texts by mode, -1 to 1."""

    metric: Metric
    matching: Mapping[Mode, float]


@dataclass(frozen=True, slots=True)
class _Found:
    """What came out on one dataset, by mode, and the labels.

    Figures, score tables, text features and the mean cosine of what belongs together.
    """

    figures: Mapping[Mode, Any]
    scores: Mapping[Mode, list[Tensor]]
    texts: Pair
    matching: Mapping[Mode, float]
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

    def run_on(self, dataset: Dataset) -> Metric:
        """Evaluate on an open dataset."""
        return self.score(self.encode(dataset)).metric

    @torch.no_grad()
    def encode(self, dataset: Dataset) -> EncodedImages:
        """Run the images of a dataset through the image tower, in every mode."""
        model: Any = self.clip.model
        skipped = Skipped()
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
                parts.append({m: _raw(model.encode_image(pixels)) for m in self._each_mode()})
                kept += batch.samples
                advance(len(pixels), **_agreement(parts[-1]))
        return EncodedImages(dataset, _join(parts), tuple(kept), skipped)

    @torch.no_grad()
    def score(self, encoded: EncodedImages) -> Scored:
        """Evaluate on images that are encoded already; each may have its own adapter by then."""
        dataset, kept = encoded.dataset, encoded.kept
        images = {m: F.normalize(encoded.features[m], dim=-1) for m in self.modes}
        if dataset.task == "classification":
            found = self._classify(dataset, images, kept)
        else:
            found = self._retrieve(images, kept)
        scores, both = found.scores, Mode.OFF in self.modes
        metric = Metric(
            data=str(dataset.source),
            task=dataset.task,
            float=found.figures[Mode.OFF] if both else None,
            quantized=found.figures[Mode.QUANTIZE],
            agreement=top_agreement(scores[Mode.OFF], scores[Mode.QUANTIZE]) if both else None,
            samples=len(kept),
            skipped=len(encoded.skipped.files),
            space=self._space(images, found) if both else None,
            worst_classes=self._worst_classes(dataset, found, kept) if both else (),
        )
        return Scored(metric, found.matching)

    def _classify(self, dataset: Dataset, images: Pair, kept: Sequence[Sample]) -> _Found:
        labels = torch.tensor([sample.label for sample in kept])
        classes = self.class_texts(dataset.classnames)
        figures = {m: classification(images[m], classes[m], labels) for m in self.modes}
        scores = {m: [images[m] @ classes[m].T] for m in self.modes}
        own = {m: float((images[m] * classes[m][labels]).sum(-1).mean()) for m in self.modes}
        return _Found(figures, scores, classes, own, labels)

    def _retrieve(self, images: Pair, kept: Sequence[Sample]) -> _Found:
        captions = [text for sample in kept for text in sample.texts]
        owner = torch.tensor([i for i, sample in enumerate(kept) for _ in sample.texts])
        texts = self.caption_texts(captions)
        figures = {m: retrieval(images[m], texts[m], owner) for m in self.modes}
        tables = {m: images[m] @ texts[m].T for m in self.modes}
        scores = {m: [table, table.T] for m, table in tables.items()}
        own = {m: float((images[m][owner] * texts[m]).sum(-1).mean()) for m in self.modes}
        return _Found(figures, scores, texts, own, None)

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

    @torch.no_grad()
    def caption_texts(self, texts: Sequence[str]) -> Pair:
        """Normalised features ``(texts, dim)`` of captions."""
        parts: list[Pair] = []
        with self.progress.phase("encode captions", len(texts)) as advance:
            for start in range(0, len(texts), TEXT_BATCH):
                some = texts[start : start + TEXT_BATCH]
                parts.append({m: encode_captions(self.clip, some, m) for m in self._each_mode()})
                advance(len(some), **_agreement(parts[-1]))
        return _join(parts)

    @torch.no_grad()
    def class_texts(self, classnames: tuple[str, ...]) -> Pair:
        """Normalised embeddings ``(classes, dim)`` of classes, made once."""
        if classnames not in self._classes:
            total = len(classnames) * self.template_count * len(self.modes)
            with self.progress.phase("encode class prompts", total) as advance:
                self._classes[classnames] = {
                    m: encode_classes(self.clip, classnames, m, self.template_count, advance)
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


def _raw(features: Tensor) -> Tensor:
    return features.float().cpu()


def _agreement(features: Pair) -> dict[str, float]:
    """How close float and quantized features of the last batch are, to be shown."""
    if len(features) < 2:
        return {}
    both = (features[Mode.OFF], features[Mode.QUANTIZE])
    return {"cosine": float(F.cosine_similarity(*both, dim=-1).mean())}


def _join(parts: Sequence[Pair]) -> Pair:
    return {mode: torch.cat([part[mode] for part in parts]) for mode in parts[0]}
