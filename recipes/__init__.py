# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""qkit's own recipes, one TOML file each; found through the entry points ``qkit.recipes``."""
