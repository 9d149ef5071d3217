# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""What a swapped float module becomes: the same module with points where tensors are quantized."""
