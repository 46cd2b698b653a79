# SPDX-License-Identifier: Apache-2.0
"""SAMTok (arXiv 2601.16093): a mask is two words, so that a plain language model or a text server points at things."""
