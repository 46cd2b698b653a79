# SPDX-License-Identifier: Apache-2.0
"""What a model is worth: on a dataset, against another one, the paper, or the answers of the official code."""
