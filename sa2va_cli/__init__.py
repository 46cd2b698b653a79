# SPDX-License-Identifier: Apache-2.0
"""The `sa2va` command: one thin file per subcommand. The only place that sees every part of the project."""
