# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Orthogonal matrices: Hadamard ones by their definition, principal axes by what they do."""

from functools import reduce
from math import prod

import pytest
import torch

from calibrators.transforms.bases import hadamard_factors, paley, principal_axes

KNOWN = (2, 4, 8, 12, 16, 20, 24, 40, 48, 64, 80, 192, 256, 768)
UNKNOWN = (3, 5, 6, 7, 10, 14, 28, 36, 100)
SHAPE = (3, 4, 5)


@pytest.mark.parametrize("size", KNOWN)
def test_hadamard_factors_multiply_to_a_hadamard_matrix(size):
    factors = hadamard_factors(size)
    dense = reduce(torch.kron, factors)
    assert dense.shape == (size, size)
    torch.testing.assert_close(dense @ dense.T, torch.eye(size), rtol=0, atol=1e-5)
    torch.testing.assert_close(dense.abs(), torch.full_like(dense, size**-0.5))


@pytest.mark.parametrize("size", KNOWN)
def test_factors_are_far_smaller_than_the_matrix(size):
    sizes = [len(factor) for factor in hadamard_factors(size)]
    assert prod(sizes) == size
    assert max(sizes) <= max(20, 2 * size**0.5)


@pytest.mark.parametrize("size", UNKNOWN)
def test_other_orders_have_none(size):
    assert hadamard_factors(size) is None


def test_order_one_changes_nothing():
    assert hadamard_factors(1) == ()


@pytest.mark.parametrize("prime", [3, 7, 11, 19, 23])
def test_paley_makes_a_skew_hadamard_matrix(prime):
    matrix = paley(prime)
    identity = torch.eye(prime + 1)
    torch.testing.assert_close(matrix @ matrix.T, identity, rtol=0, atol=1e-6)
    signs = matrix * (prime + 1) ** 0.5
    torch.testing.assert_close(signs.abs(), torch.ones_like(signs))
    torch.testing.assert_close(signs + signs.T, 2 * identity, rtol=0, atol=1e-5)


@pytest.fixture
def patches(normal):
    """Patches whose colours, rows and columns all depend on one another."""
    mixed = [normal(n, n) for n in SHAPE]
    blocks = torch.einsum("ncij,cC,iI,jJ->nCIJ", normal(300, *SHAPE), *mixed)
    return blocks.flatten(1)


def test_principal_axes_are_orthogonal_and_take_each_dimension_apart(patches):
    axes = principal_axes(patches, SHAPE)
    blocks = patches.double().unflatten(1, SHAPE)
    assert len(axes) == len(SHAPE)
    for dim, (size, axis) in enumerate(zip(SHAPE, axes, strict=True), start=1):
        assert axis.shape == (size, size)
        torch.testing.assert_close(axis.T @ axis, torch.eye(size), rtol=0, atol=1e-5)
        rows = blocks.movedim(dim, -1).reshape(-1, size)
        before = rows.T @ rows
        after = axis.double().T @ before @ axis.double()
        energy = after.diagonal()
        assert bool((energy.diff() <= 0).all())
        apart = after - torch.diag(energy)
        assert apart.abs().max() < 1e-5 * energy[0]
        assert (before - torch.diag(before.diagonal())).abs().max() > 1e-2 * energy[0]


def test_what_all_patches_share_becomes_one_value(normal):
    shared = torch.einsum("n,c,i,j->ncij", normal(50), *(normal(n) for n in SHAPE)).flatten(1)
    found = shared @ reduce(torch.kron, principal_axes(shared, SHAPE))
    torch.testing.assert_close(found[:, 0].abs(), shared.norm(dim=1))
    assert found[:, 1:].abs().max() < 1e-4 * shared.abs().max()
