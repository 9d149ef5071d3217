# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""The ``qkit`` command. Heavy imports happen inside the commands, so that ``--help`` is fast."""

from qkit.cli.app import app


def main() -> None:
    """Entry point of the ``qkit`` script."""
    app()
