# SPDX-License-Identifier: Apache-2.0
"""YAML as people mean it: a folder called 2026-11-27 is text and no date, and a small file is a small value."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from sa2va_model.errors import InputError

DEEPEST = 50
"""Levels of a value; settings and datasets have five."""
LARGEST = 1_000_000
"""Values in a file with every alias written out: ten lines of them can mean a billion."""


class _Loader(yaml.SafeLoader):
    """`SafeLoader` without dates and without what takes the machine."""

    _depth = 0

    def fetch_more_tokens(self) -> None:
        """Called by the scanner, which reads ahead."""
        if self.flow_level > DEEPEST:
            raise yaml.YAMLError(f"more than {DEEPEST} levels of brackets")
        super().fetch_more_tokens()

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """Called for each value."""
        self._depth += 1
        if self._depth > DEEPEST:
            raise yaml.YAMLError(f"more than {DEEPEST} levels of values")
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in found if tag != "tag:yaml.org,2002:timestamp"]
    for first, found in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def parse_yaml(text: str) -> Any:
    """The value that a text is.

    Raises:
        yaml.YAMLError: it is no YAML, or none of bounded size and depth.
    """
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        if _size(node, {}) > LARGEST:
            raise yaml.YAMLError(f"with its aliases it is more than {LARGEST} values")
        return loader.construct_document(node)
    except yaml.YAMLError:
        raise
    except (ValueError, LookupError, AttributeError, TypeError, RecursionError) as error:
        # What the constructors of PyYAML let through: !!float x, numbers with thousands of digits.
        raise yaml.YAMLError(str(error)[:120]) from error
    finally:
        loader.dispose()


def read_yaml_file(file: Path) -> Any:
    """The value that a file is.

    Raises:
        InputError: it cannot be read, or is no YAML.
    """
    try:
        return parse_yaml(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{file}: {error.strerror}, expected a YAML file") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())[:300]
        raise InputError(f"{file}: not valid YAML ({reason})") from error


def _size(node: yaml.Node, known: dict[int, int]) -> int:
    """Values below a node, each alias counted as often as it is used; endless for one that holds itself."""
    if id(node) not in known:
        known[id(node)] = (
            LARGEST + 1
        )  # while it is being counted: only a node within itself reads this
        inner = node.value if isinstance(node, yaml.CollectionNode) else ()
        pairs = (part for item in inner for part in (item if isinstance(item, tuple) else (item,)))
        known[id(node)] = min(1 + sum(_size(part, known) for part in pairs), LARGEST + 1)
    return known[id(node)]
