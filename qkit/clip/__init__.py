# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Everything that knows open_clip: loading, the towers' layout, zero-shot prompts."""

from qkit.clip.torchvision_ops import declare_missing

# before any module here imports open_clip; kept, or torch forgets the operators again
_DECLARED = declare_missing()
