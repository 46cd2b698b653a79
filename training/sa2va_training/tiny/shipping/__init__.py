# SPDX-License-Identifier: Apache-2.0
"""From a run to a folder that ships: weights, the words that it may be asked for, and probes of them."""
