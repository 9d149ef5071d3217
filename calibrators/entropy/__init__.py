# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""The entropy calibrator: which layers depend on each other, and their joint search."""

from calibrators.entropy.calibrator import Entropy as Entropy
