# SPDX-License-Identifier: Apache-2.0
"""Objects of the table as MuJoCo bodies, built from numbers: no mesh or picture files."""

from sa2va_sim.assets.objects import build_object, object_xml, register_shape
from sa2va_sim.assets.parts import Collision, Geom, ObjectModel

__all__ = ["Collision", "Geom", "ObjectModel", "build_object", "object_xml", "register_shape"]
