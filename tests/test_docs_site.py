"""The documentation as pages: it builds without a warning, holds together, and fetches nothing."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from html import unescape
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from chromium_harness import Chromium, find_chromium
from experiment_harness import REPOSITORY, SECONDS

from babygpt_exp.explain import known_keys
from babygpt_exp.options import CONF, options

NEEDED = ("mkdocs", "material", "mkdocstrings")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not all(map(importlib.util.find_spec, NEEDED)),
        reason="MkDocs is not installed: pip install 'babygpt-exp[docs]'",
    ),
]
LOADED = {"img": "src", "script": "src", "iframe": "src", "source": "src", "video": "src"}
"""Elements that fetch something, and the attribute that says what."""
TAG = re.compile(r"<(\w+)\s([^<>]*)>")
ATTRIBUTE = re.compile(r'([\w-]+)="([^"]*)"')
NARROW = 390
"""Width of a phone, in pixels."""


class Site:
    """A folder of pages."""

    def __init__(self, folder: Path, said: str) -> None:
        self.folder = folder
        self.said = said
        self.pages = {path: Content(path) for path in folder.rglob("*.html")}

    def text(self, name: str) -> str:
        """The HTML of a page."""
        return (self.folder / name).read_text(encoding="utf-8")


class Content:
    """What a page can be linked at, what it links to and what it loads."""

    def __init__(self, path: Path) -> None:
        self.anchors: set[str] = set()
        self.links: list[str] = []
        self.loads: list[str] = []
        for tag, attributes in TAG.findall(path.read_text(encoding="utf-8")):
            found = {name: unescape(value) for name, value in ATTRIBUTE.findall(attributes)}
            self.anchors |= {found[name] for name in ("id", "name") if name in found}
            if tag == "a" and "href" in found:
                self.links.append(found["href"])
            if tag == "link" and found.get("rel") not in ("canonical", "next", "prev"):
                self.loads.append(found["href"])
            if address := found.get(LOADED.get(tag, "")):
                self.loads.append(address)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    """All of it, built once, as `make docs` does."""
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)],
        cwd=REPOSITORY,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    assert done.returncode == 0, done.stderr
    return Site(folder, done.stdout + done.stderr)


def test_nothing_is_complained_about(site: Site) -> None:
    assert not re.search("warning|error|deprecat", site.said, re.IGNORECASE), site.said
    assert len(site.pages) > 40
    assert not list(site.folder.rglob("*.py"))


def test_links_and_anchors_are_there(site: Site) -> None:
    missing = []
    for path, content in site.pages.items():
        if path.name == "404.html":  # has no place of its own, so its links begin at the root
            continue
        for link in [*content.links, *content.loads]:
            target = urlsplit(link)
            if target.scheme or target.netloc:
                continue
            place = (path.parent / unquote(target.path)).resolve() if target.path else path
            other = site.pages.get(place)
            has_anchor = not target.fragment or target.fragment.startswith("__")
            if other is not None and not has_anchor:
                has_anchor = unquote(target.fragment) in other.anchors
            if not place.exists() or not has_anchor:
                missing.append(f"{path.relative_to(site.folder)}: {link}")
    assert not missing


def test_nothing_is_loaded_from_elsewhere(site: Site) -> None:
    for path, content in site.pages.items():
        for address in content.loads:
            assert not urlsplit(address).netloc, f"{path}: {address}"
    for path in site.folder.rglob("*.css"):
        styles = path.read_text(encoding="utf-8")
        assert not re.search(r"(url\(|@import\s)[\"']?(https?:)?//", styles), path


def test_every_key_is_in_the_reference(site: Site) -> None:
    """Each can be linked to, on the page of its group or on that of all."""
    keys = [key for key in known_keys() if "." in key or key in ("seed", "resume", "init_from")]
    assert len(keys) > 80
    for key in keys:
        page = f"configuration-{key.partition('.')[0]}" if "." in key else "configuration"
        content = site.pages[site.folder / "reference" / f"{page}.html"]
        assert key in content.anchors, key


def test_no_table_has_fallen_apart(site: Site) -> None:
    code = re.compile(r"<(pre|code|script|style)\b.*?</\1>", re.DOTALL)
    for path in site.pages:
        words = code.sub("", path.read_text(encoding="utf-8"))
        assert not re.search(r"\|\s*\|", words), path.name


def test_every_option_is_in_the_reference(site: Site) -> None:
    groups = [path.name for path in CONF.iterdir() if path.is_dir() and path.name != "hydra"]
    assert len(groups) > 10
    for group in groups:
        text = site.text(f"reference/configuration-{group}.html")
        for option in options(group):
            assert f">{option}</label>" in text, f"{group}={option}"


def test_every_field_has_a_meaning(site: Site) -> None:
    row = r"<td><code id=\"([^\"]+)\">[^<]*</code></td>\s*<td>(.*?)</td>"
    found = {}
    for path in (site.folder / "reference").glob("configuration*.html"):
        found |= dict(re.findall(row, path.read_text(encoding="utf-8"), re.DOTALL))
    assert len(found) > 100
    assert not [key for key, meaning in found.items() if not meaning and "hydra." not in key]


def test_every_command_says_what_it_does(site: Site) -> None:
    pages = sorted((site.folder / "reference").glob("command-*.html"))
    assert len(pages) >= 10
    for page in pages:
        assert "--help" in page.read_text(encoding="utf-8"), page.name


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    """A browser for all pages of this file."""
    if find_chromium() is None:
        pytest.skip("no Chromium")
    started = Chromium(tmp_path_factory.mktemp("chromium"))
    yield started
    started.close()


READY = "document.readyState === 'complete' && document.querySelector('.md-content')"


@pytest.mark.browser
@pytest.mark.parametrize(
    "name",
    [
        "index",
        "protocol",
        "learning",
        "scaling",
        "sweeps",
        "reference/configuration-data",
        "reference/command-babygpt_exp",
        "reference/streamer",
    ],
)
def test_a_page_fits_a_phone_and_fetches_nothing(site: Site, browser: Chromium, name: str) -> None:
    browser.open(site.folder / f"{name}.html", READY, width=NARROW, height=844)
    assert browser.evaluate("document.documentElement.scrollWidth") <= NARROW
    assert browser.complaints() == []
    assert all(url.startswith("file://") for url in browser.requests()), browser.requests()


@pytest.mark.browser
def test_the_search_works_from_disk(site: Site, browser: Chromium) -> None:
    browser.open(site.folder / "index.html", READY)
    browser.evaluate("document.querySelector('.md-search__input').focus()")
    browser.call("Input.insertText", text="crc32")
    typed = "document.querySelector('.md-search__input').dispatchEvent(new Event('keyup'))"
    browser.evaluate(typed)  # as the last key is let go
    browser.wait_for("document.querySelector('.md-search-result__link')")
    links = "[...document.querySelectorAll('.md-search-result__link')].map(a => a.href)"
    assert any("protocol.html" in link for link in browser.evaluate(links))
    assert all(url.startswith("file://") for url in browser.requests()), browser.requests()
