# SPDX-License-Identifier: Apache-2.0
"""Ordinary objects from Debian's `sweethome3d-furniture`: names, meshes, colours, credits; nothing of it is shipped."""
