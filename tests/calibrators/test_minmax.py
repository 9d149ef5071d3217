# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Min-max against torch.ao's own observers, bit for bit."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from torch.ao.quantization.observer import MinMaxObserver, PerChannelMinMaxObserver

from calibrators.minmax import MinMax
from qkit.numerics import EPS, qparams_from_range
from qkit.observers import make_observer, read_stats, weight_stats
from qkit.spec import Granularity, QuantSpec, Range

values = st.floats(-1e4, 1e4, width=32) | st.sampled_from([0.0, 1e-12, -60.0, 1e30, -1e-30])
matrices = arrays(np.float32, array_shapes(min_dims=2, max_dims=2, max_side=8), elements=values)
specs = st.builds(
    QuantSpec,
    st.integers(2, 8),
    st.booleans(),
    st.sampled_from([Granularity.TENSOR, Granularity.CHANNEL]),
)


def by_torch(batches, spec, axis):
    """Scale and zero point that torch.ao's observer computes with code of its own."""
    kind = "channel" if spec.granularity is Granularity.CHANNEL else "tensor"
    sign = "symmetric" if spec.symmetric else "affine"
    settings = {
        "dtype": torch.qint8 if spec.symmetric else torch.quint8,
        "qscheme": getattr(torch, f"per_{kind}_{sign}"),
        "quant_min": spec.quant_min,
        "quant_max": spec.quant_max,
        "eps": EPS,
    }
    per_channel = kind == "channel"
    make = PerChannelMinMaxObserver if per_channel else MinMaxObserver
    observer = make(ch_axis=axis, **settings) if per_channel else make(**settings)
    for batch in batches:
        observer(batch)
    return observer.calculate_qparams()


def check_equal(stats, spec, batches, axis):
    q = qparams_from_range(MinMax().choose_range(stats, spec), spec)
    scale, zero_point = by_torch(batches, spec, axis)
    assert torch.equal(q.scale.reshape(-1), scale.reshape(-1))
    assert torch.equal(q.zero_point.reshape(-1), zero_point.reshape(-1).to(torch.int32))


@settings(deadline=None, max_examples=150)
@given(matrices, specs)
def test_weights_equal_torch_ao(array, spec):
    weight = torch.from_numpy(array)
    check_equal(weight_stats(weight, spec.granularity), spec, [weight], axis=0)


@settings(deadline=None, max_examples=60)
@given(st.lists(matrices, min_size=1, max_size=3), specs)
def test_observed_activations_equal_torch_ao(arrays_, spec):
    width = min(array.shape[1] for array in arrays_)
    batches = [torch.from_numpy(array[:, :width].copy()) for array in arrays_]
    observer = make_observer(spec, axis=-1)
    for batch in batches:
        observer(batch)
    check_equal(read_stats(observer), spec, batches, axis=1)


def test_nothing_is_clipped():
    weight = torch.randn(6, 50, generator=torch.Generator().manual_seed(0))
    weight[0, 0] = 100.0
    stats = weight_stats(weight, Granularity.CHANNEL)
    low, high = MinMax().choose_range(stats, QuantSpec(4))
    assert torch.equal(low, weight.amin(dim=1))
    assert torch.equal(high, weight.amax(dim=1))


def test_symmetric_scale_at_four_bits_is_absmax_over_seven_and_a_half():
    q = qparams_from_range(Range(torch.tensor(-3.0), torch.tensor(1.5)), QuantSpec(4, True))
    assert q.scale.item() == pytest.approx(3.0 / 7.5)
    assert q.zero_point.item() == 0


def test_it_has_no_options():
    with pytest.raises(TypeError, match="unexpected keyword argument 'steps'"):
        MinMax(steps=3)
