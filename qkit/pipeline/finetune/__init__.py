# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Fine-tuning of quantized runs: P4Q's prompt and adapter."""
