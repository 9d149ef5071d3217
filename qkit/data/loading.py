# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Batches of preprocessed images, decoded in threads a little ahead of their use."""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from PIL import Image

from qkit.data.decode import BadImageError, decode
from qkit.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from torch import Tensor

    from qkit.data.sample import Sample

    Preprocess = Callable[[Image.Image], Tensor]
    OnSkip = Callable[[Path, str], None]

BATCHES_AHEAD = 2


@dataclass(frozen=True, slots=True, eq=False)
class ImageBatch:
    """Images and the samples they belong to.

    Attributes:
        pixels: ``(N, 3, H, W)``, as the preprocessing gave them.
        samples: the N samples, in the same order.
    """

    pixels: Tensor
    samples: tuple[Sample, ...]


def image_batches(
    samples: Sequence[Sample],
    preprocess: Preprocess,
    batch_size: int,
    *,
    skip_bad: bool = False,
    on_skip: OnSkip | None = None,
    workers: int = 2,
) -> Iterator[ImageBatch]:
    """Decode and preprocess images in order; all batches but the last are full.

    Args:
        samples: what to load.
        preprocess: turns an RGB image into ``(3, H, W)``; called from several threads.
        batch_size: images in a batch.
        skip_bad: leave out files that cannot be decoded instead of stopping.
        on_skip: told the path and the reason of each file left out, in order.
        workers: decoding threads. At most about two batches are decoded ahead.

    Raises:
        DataError: a file cannot be decoded, or with ``skip_bad`` none can; ``batch_size`` or
            ``workers`` is below 1.
    """
    for name, value in (("batch size", batch_size), ("workers", workers)):
        if value < 1:
            message = f"{name} = {value} is not possible. Use 1 or more."
            raise DataError(message)
    # Pillow registers its formats on first use, and not safely from several threads at once.
    Image.init()
    pool = ThreadPoolExecutor(workers, thread_name_prefix="qkit-decode")
    loaded = _decode_ahead(pool, samples, preprocess, BATCHES_AHEAD * batch_size)
    return _batch(pool, _keep_good(loaded, skip_bad, on_skip), batch_size)


def _batch(
    pool: ThreadPoolExecutor, loaded: Iterator[tuple[Sample, Tensor]], batch_size: int
) -> Iterator[ImageBatch]:
    try:
        while batch := tuple(islice(loaded, batch_size)):
            kept, pixels = zip(*batch, strict=True)
            yield ImageBatch(torch.stack(pixels), kept)
    finally:
        pool.shutdown(cancel_futures=True)


def _keep_good(
    loaded: Iterator[tuple[Sample, Future[Tensor]]], skip_bad: bool, on_skip: OnSkip | None
) -> Iterator[tuple[Sample, Tensor]]:
    kept, skipped = 0, None
    for sample, future in loaded:
        try:
            pixels = future.result()
        except BadImageError as error:
            if not skip_bad:
                raise
            skipped = error
            if on_skip is not None:
                on_skip(error.path, error.reason)
        else:
            kept += 1
            yield sample, pixels
    if skipped is not None and kept == 0:
        message = (
            f"no image could be read; the last was {str(skipped.path)!r}: {skipped.reason}. "
            "Repair the files or name others."
        )
        raise DataError(message)


def _decode_ahead(
    pool: ThreadPoolExecutor, samples: Sequence[Sample], preprocess: Preprocess, ahead: int
) -> Iterator[tuple[Sample, Future[Tensor]]]:
    jobs = ((sample, pool.submit(_prepare, sample, preprocess)) for sample in samples)
    pending = deque(islice(jobs, ahead))
    while pending:
        yield pending.popleft()
        pending.extend(islice(jobs, 1))


def _prepare(sample: Sample, preprocess: Preprocess) -> Tensor:
    image = sample.image
    return preprocess(decode(image) if isinstance(image, Path) else image.render())
