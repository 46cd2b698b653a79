# SPDX-License-Identifier: Apache-2.0
"""Sa2VA as a ROS 2 node. It knows topics, time and frames, and no tensor maths.

The generated modules `sa2va_ros.msg`, `.srv` and `.action` live in the install tree under the same package name.
`extend_path` makes both folders one package when the source tree comes first on `sys.path`. Nothing else may stand
here: in the install tree the generated, empty `__init__.py` can take this file's place.
"""

from pkgutil import extend_path

__path__ = extend_path(__path__, __name__)
