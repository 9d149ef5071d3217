# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Towers of a run in other formats, their integers kept, each loaded back and compared."""
