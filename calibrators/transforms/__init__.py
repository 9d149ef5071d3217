# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Choose the coordinates in which inputs, and the weights that read them, are rounded."""
