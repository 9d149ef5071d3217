# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Memory that was freed goes back to the system."""

from __future__ import annotations

import ctypes
import sys


def trim_heap() -> None:
    """Let glibc give back what it keeps of unpacked weights that were packed for a kernel since.

    A tenth of what a loaded model holds. Other C libraries give it back, or not, by themselves.
    """
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)
