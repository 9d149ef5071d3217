# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Writing a page that was asked for with --html."""

from pathlib import Path

from qkit.cli.console import stderr
from qkit.errors import ArtifactError


def write_page(page: str, target: Path) -> None:
    """Write a page and say where.

    Raises:
        ArtifactError: the file cannot be written.
    """
    try:
        target.write_text(page, encoding="utf-8")
    except OSError as error:
        message = f"{target} cannot be written: {error.strerror}. Choose another file."
        raise ArtifactError(message) from error
    stderr().print(f"written to {target}", markup=False)
