# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""The run folder: packed integers, a manifest and a report, written whole or not at all."""
