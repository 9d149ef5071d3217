# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""qkit's own calibrators: plug-ins like any other, found through entry points."""
