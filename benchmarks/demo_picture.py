# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Run ``qkit demo`` and draw what it prints to a terminal, as the picture that the README shows.

python benchmarks/demo_picture.py
"""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
from pathlib import Path

from rich.console import Console
from rich.text import Text

COLUMNS = 100
PICTURE = Path(__file__).with_name("demo.svg")
WEB_FONTS = re.compile(r"@font-face \{.*?\}", re.DOTALL)


def run_demo() -> str:
    """Output of a real run, with its colours."""
    environment = os.environ | {"FORCE_COLOR": "1", "COLUMNS": str(COLUMNS)}
    command = [os.path.relpath(Path(sys.executable).with_name("qkit")), "demo"]
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    return done.stdout


def draw(output: str) -> str:
    """Terminal output as SVG, without links to fonts on the network."""
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True)
    console.print(Text("$ make demo", style="bold"))
    console.print(Text.from_ansi(output))
    return WEB_FONTS.sub("", console.export_svg(title="make demo"))


if __name__ == "__main__":
    PICTURE.write_text(draw(run_demo()), encoding="utf-8")
