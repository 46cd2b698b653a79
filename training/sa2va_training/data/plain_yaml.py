# SPDX-License-Identifier: Apache-2.0
"""YAML as people mean it: a folder called 2026-11-27 is text and no date."""

from __future__ import annotations

from typing import Any

import yaml


class _Loader(yaml.SafeLoader):
    """`SafeLoader` without dates."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in found if tag != "tag:yaml.org,2002:timestamp"]
    for first, found in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def parse_yaml(text: str) -> Any:
    """The value that a text is.

    Raises:
        yaml.YAMLError: it is no YAML.
    """
    return yaml.load(text, _Loader)
