# SPDX-License-Identifier: Apache-2.0
"""`python -m sa2va_model` is the `sa2va` command. The one place here that looks up to `sa2va_cli`."""

from __future__ import annotations

import sys

if __name__ == "__main__":
    from sa2va_cli.main import main

    sys.exit(main())
