# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""From a run folder to a folder of exported towers, with their proof."""
