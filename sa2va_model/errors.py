# SPDX-License-Identifier: Apache-2.0
"""The one exception for wrong input: a file, a topic, a field or a value that the user gave."""

from __future__ import annotations


class InputError(ValueError):
    """What was given, what was wrong with it and what was expected, in one line.

    The command line prints it and exits with status 2; the node counts and logs it and lives on.
    """
