# SPDX-License-Identifier: Apache-2.0
"""The documentation as a site (`make docs` builds it strictly): every page is in a menu, every link leads somewhere."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

import sa2va_model

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.glob("*.md"))
CODE = re.compile(r"^```.*?^```|`[^`\n]*`", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\((?!https?:|mailto:)([^)#\s]*)(#[^)\s]+)?\)")


def prose(page: Path) -> str:
    return CODE.sub("", page.read_text(encoding="utf-8"))


def pages_of(menu: Any) -> Iterator[str]:
    if isinstance(menu, str):
        yield menu
    else:
        for entry in menu.values() if isinstance(menu, dict) else menu:
            yield from pages_of(entry)


def anchors(page: Path) -> set[str]:
    """Of a page's headings, as Python-Markdown makes them."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    found = set()
    for title in re.findall(r"^#+ (.+)$", text, re.MULTILINE):
        plain = unicodedata.normalize("NFKD", title.replace("`", "")).encode("ascii", "ignore")
        words = re.sub(r"[^\w\s-]", "", plain.decode()).strip().lower()
        found.add("#" + re.sub(r"[-\s]+", "-", words))
    return found


def test_every_page_is_in_the_menu_once() -> None:
    menu = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"]
    assert sorted(pages_of(menu)) == [page.name for page in PAGES]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_lead_somewhere(page: Path) -> None:
    for file, anchor in LINK.findall(prose(page)):
        target = page.parent / file if file else page
        assert target.is_file(), f"{page.name}: {file}"
        assert target.resolve().parent == DOCS, f"{page.name}: {file} is not on the site"
        if anchor:
            assert anchor in anchors(target), f"{page.name}: {file}{anchor}"


def test_pictures_are_shown_somewhere() -> None:
    shown = {file for page in PAGES for file, _ in LINK.findall(prose(page))}
    assert {p.name for p in DOCS.iterdir() if p.suffix in (".jpg", ".png")} <= shown


def test_the_reference_has_every_public_name() -> None:
    text = (DOCS / "reference.md").read_text(encoding="utf-8")
    assert sorted(re.findall(r"^::: sa2va_model\.(\w+)$", text, re.M)) == sorted(sa2va_model.__all__)


def test_nothing_is_fetched_to_look_at_it() -> None:
    made = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    assert made["theme"]["font"] is False  # else from Google
    assert "repo_url" not in made  # Material asks GitHub for stars
    assert not {"extra_css", "extra_javascript"} & made.keys()
