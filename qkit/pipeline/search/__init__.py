# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Mixed precision: who is sensitive to few bits, and the best way to give out a budget of them."""
