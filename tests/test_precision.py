# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Half precision where a processor multiplies such numbers itself, else none."""

import pytest
import torch

from qkit.precision import half_products


@pytest.mark.parametrize(
    ("instructions", "half"),
    [({"avx512_bf16": True}, True), ({"avx512_bf16": False, "avx2": True}, False), ({}, False)],
)
def test_products_of_a_processor(monkeypatch, instructions, half):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: instructions)
    x = torch.linspace(0, 1, 6).view(2, 3)
    with half_products(torch.device("cpu")):
        found = x @ x.T
    assert found.dtype == (torch.bfloat16 if half else torch.float32)
    assert (x @ x.T).dtype == torch.float32
