# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Learn rounded weights so that blocks, and towers, give what the float ones gave."""
