# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Models that run in integers: what a run folder stores, executed by int8 kernels."""
