# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Reports in the terminal: readable without colour, in 80 columns, and better in 160."""
