# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Who gets how many bits, on plain numbers: choices, budgets, and the exact solution."""
