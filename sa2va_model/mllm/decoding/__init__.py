# SPDX-License-Identifier: Apache-2.0
"""How answers are written: greedy, for many questions in one forward, with known answers checked ahead."""
