# SPDX-License-Identifier: Apache-2.0
"""Other people's annotation formats, to and from the simple folder."""
