# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Grids whose values are not evenly spaced, for softmax probabilities and what a GELU puts out.

Values are ``scale * unit - offset``; the offset belongs to the kind of grid, the units to it, the
bits, and one integer that is stored where uniform grids keep their zero point.
"""
