# SPDX-License-Identifier: Apache-2.0
"""Training of Sa2VA models: `sa2va_training.tiny` makes the weights that ship, `sa2va_training.metrics` measures.

Nothing here is needed at run time; `sa2va_model` never imports it.
"""
