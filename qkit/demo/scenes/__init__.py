# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Scenes of coloured shapes, their pictures and their captions, all made from a seed."""
