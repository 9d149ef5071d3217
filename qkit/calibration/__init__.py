# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Observing a model once, asking a calibrator for scales, installing them."""
