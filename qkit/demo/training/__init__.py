# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""How the demo model is trained: batches, objective, loop, scores."""
