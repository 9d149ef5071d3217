# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""What benchmarks measured, one record a line, in files small enough to be committed.

A record says what was run (its key), what came out, and when, where and at which commit. It is
written as soon as it is there, so an interrupted benchmark goes on where it stopped, on another
machine too.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from common import machine

FOLDER = Path(__file__).with_name("results")
CODE = (":/*.py", ":/*.toml")

Key = Mapping[str, str | int]
"""What was run, e.g. ``{"line": "W4A4 P4Q", "seed": 0}``."""


@dataclass(frozen=True, slots=True)
class Results:
    """Records of a file of JSON lines; several processes may add to it at once.

    Attributes:
        path: need not be there yet.
    """

    path: Path

    def has(self, key: Key) -> bool:
        """Whether something is there with this key."""
        return bool(self.of(key))

    def of(self, key: Key) -> list[dict[str, Any]]:
        """Records that agree with ``key``, which may be a part of theirs, oldest first.

        Raises:
            ValueError: a line of the file is no record.
        """
        return [one for one in self._all() if all(one.get(k) == v for k, v in key.items())]

    def add(self, key: Key, record: Mapping[str, Any]) -> None:
        """Write a record: its key, what came out, date, machine and commit."""
        origin = {"date": _today(), "machine": machine(), "commit": commit()}
        line = json.dumps({**key, **record, **origin}) + "\n"
        self.path.parent.mkdir(parents=True, exist_ok=True)
        target = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            os.write(target, line.encode())  # in one piece: lines of two processes do not mix
        finally:
            os.close(target)

    def _all(self) -> list[dict[str, Any]]:
        if not self.path.exists():
            return []
        lines = self.path.read_text(encoding="utf-8").splitlines()
        return [self._parsed(number, line) for number, line in enumerate(lines, 1) if line]

    def _parsed(self, number: int, line: str) -> dict[str, Any]:
        try:
            found: dict[str, Any] = json.loads(line)
        except json.JSONDecodeError as error:
            message = f"{self.path}, line {number} is no record ({error}). Delete that line."
            raise ValueError(message) from error
        return found


def commit() -> str:
    """Short id of the commit that runs, with a "+" where code was changed; empty without git."""
    found = _git("rev-parse", "--short", "HEAD")
    return f"{found}+" if found and _git("status", "--porcelain", "--", *CODE) else found


def _git(*command: str) -> str:
    try:
        done = subprocess.run(
            ("git", *command), cwd=FOLDER.parent, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return ""
    return done.stdout.strip()


def _today() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%d")
