# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""The embedded default: scenes that are drawn on demand and a small CLIP model trained on them."""
