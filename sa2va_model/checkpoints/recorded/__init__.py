# SPDX-License-Identifier: Apache-2.0
"""Comparisons with recorded answers of the official code, stage by stage."""
