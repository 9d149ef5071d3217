# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
import threading

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from qkit.data.decode import decode
from qkit.data.loading import image_batches
from qkit.data.sample import Sample
from qkit.errors import DataError

COUNT = 11


def to_tensor(image):
    return torch.from_numpy(np.array(image)).permute(2, 0, 1) / 255


@pytest.fixture(scope="module")
def samples(tmp_path_factory, paint):
    folder = tmp_path_factory.mktemp("loading")
    return [Sample(paint(folder / f"{i}.png", seed=i), label=i) for i in range(COUNT)]


@pytest.fixture(scope="module")
def half(tmp_path_factory, truncate):
    return Sample(truncate(tmp_path_factory.mktemp("damaged") / "half.jpg"))


@given(batch_size=st.integers(1, COUNT + 2), workers=st.integers(1, 4), count=st.integers(1, COUNT))
def test_batches_joined_are_the_images_decoded_in_order(samples, batch_size, workers, count):
    part = samples[:count]
    batches = list(image_batches(part, to_tensor, batch_size, workers=workers))
    expected = torch.stack([to_tensor(decode(sample.image)) for sample in part])
    assert torch.equal(torch.cat([batch.pixels for batch in batches]), expected)
    assert [sample for batch in batches for sample in batch.samples] == part
    assert all(len(batch.samples) == batch_size for batch in batches[:-1])


@given(bad=st.sets(st.integers(0, COUNT - 1), max_size=COUNT - 1), batch_size=st.integers(1, 5))
def test_skipped_files_leave_no_gaps(samples, half, bad, batch_size):
    mixed = [half if index in bad else sample for index, sample in enumerate(samples)]
    skipped = []
    batches = list(
        image_batches(
            mixed, to_tensor, batch_size, skip_bad=True, on_skip=lambda *told: skipped.append(told)
        )
    )
    good = [sample for index, sample in enumerate(samples) if index not in bad]
    assert [sample for batch in batches for sample in batch.samples] == good
    assert all(len(batch.pixels) == batch_size for batch in batches[:-1])
    assert [path for path, _ in skipped] == [half.image] * len(bad)
    assert all("truncated" in reason for _, reason in skipped)


def test_skipping_needs_no_listener(samples, half):
    (batch,) = image_batches([half, samples[0]], to_tensor, 2, skip_bad=True)
    assert batch.samples == (samples[0],)
    assert batch.pixels.shape == (1, 3, 6, 8)


def test_bad_file_stops_after_the_batches_before_it(samples, half):
    batches = image_batches([*samples[:4], half], to_tensor, 2)
    assert [next(batches).samples, next(batches).samples] == [
        tuple(samples[:2]),
        tuple(samples[2:4]),
    ]
    with pytest.raises(DataError, match=r"half.jpg': .*truncated.*Repair or remove.*--skip-bad"):
        next(batches)


def test_nothing_left_after_skipping(half):
    with pytest.raises(DataError, match=r"no image could be read; the last was '.*half.jpg': .*Re"):
        list(image_batches([half, half], to_tensor, 2, skip_bad=True))


def test_no_samples_give_no_batches():
    assert list(image_batches([], to_tensor, 2)) == []


@pytest.mark.parametrize(("batch_size", "workers", "name"), [(0, 1, "batch size"), (1, 0, "work")])
def test_sizes_below_one_are_refused_at_once(samples, batch_size, workers, name):
    with pytest.raises(DataError, match=rf"{name}.* = 0 is not possible. Use 1 or more"):
        image_batches(samples, to_tensor, batch_size, workers=workers)


def test_error_of_the_preprocessing_is_not_blamed_on_the_file(samples):
    def broken(image):
        raise ValueError("wrong size")

    with pytest.raises(ValueError, match="wrong size"):
        list(image_batches(samples, broken, 2, skip_bad=True))


def test_reading_ahead_is_bounded(samples):
    class Watched(list):
        taken = 0

        def __iter__(self):
            for item in super().__iter__():
                self.taken += 1
                yield item

    watched = Watched(samples * 10)
    batches = image_batches(watched, to_tensor, 4)
    for used in range(1, 6):
        next(batches)
        assert 4 * used < watched.taken <= 4 * (used + 2)


def test_stopping_early_cancels_what_waits(samples):
    calls, gate = [], threading.Event()

    def gated(image):
        calls.append(image)
        if len(calls) > 2:
            gate.wait(timeout=60)
        return to_tensor(image)

    batches = image_batches(samples, gated, 2, workers=1)
    next(batches)
    release = threading.Timer(0.5, gate.set)
    release.start()
    batches.close()
    release.join()
    assert len(calls) <= 3
    assert not [t for t in threading.enumerate() if t.name.startswith("qkit-decode")]
