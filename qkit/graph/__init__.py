# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Finding the layers of a model, swapping them, and proving that none was left out."""
