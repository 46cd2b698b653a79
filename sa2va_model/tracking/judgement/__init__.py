# SPDX-License-Identifier: Apache-2.0
"""What a mask is worth: is it seen, does it exist, is it the same object, may it be remembered."""
