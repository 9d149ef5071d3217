# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""The use cases: calibrate, evaluate, load. The command line and the benchmarks call only these."""
