# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""``python -m qkit``."""

from qkit.cli import main

if __name__ == "__main__":
    main()
