# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""P4Q (arXiv 2409.17634): a learned prompt and a low-bit adapter beside a frozen quantized CLIP."""
