# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""The ``qkit`` command. Heavy imports happen inside the commands, so that ``--help`` is fast."""

import signal

from qkit.cli.app import app


def main() -> None:
    """Entry point of the ``qkit`` script."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: clean up, say so
    app()
