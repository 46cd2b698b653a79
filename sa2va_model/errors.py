# SPDX-License-Identifier: Apache-2.0
"""What is raised on purpose: wrong input, and work that nobody wants any more."""

from __future__ import annotations


class InputError(ValueError):
    """What was given, what was wrong with it and what was expected, in one line.

    The command line prints it and exits with status 2; the node counts and logs it and lives on.
    """


class CancelledError(Exception):
    """Nobody waits for the result any more: raised inside the work, caught by whoever started it."""
