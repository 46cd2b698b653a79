# SPDX-License-Identifier: Apache-2.0
"""Objects of the table as MuJoCo bodies, built from numbers: no mesh or picture files."""

from .objects import build_object, object_xml, register_shape
from .parts import Collision, ObjectModel, Part

__all__ = ["Collision", "ObjectModel", "Part", "build_object", "object_xml", "register_shape"]
