"""What MkDocs does beside turning docs/*.md into pages: the pages that are made of the code.

The configuration, the modules and the commands describe themselves, so their pages are made while
the site is built: nothing of them is kept, and nothing can be out of date.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from code_pages import command_page, commands, module_page, packages
from configuration_pages import GROUPS, group_page, overview_page
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

log = logging.getLogger("mkdocs.hooks")

REPOSITORY = Path(__file__).resolve().parent.parent
LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)#\s]+)(#[^)\s]*)?\)")
ROOT_PAGES = {
    "Changelog": "CHANGELOG.md",
    "Contributing": "CONTRIBUTING.md",
    "Security": "SECURITY.md",
}
"""Pages that lie in the root of the repository, where people look for them."""


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Adds the made pages to the navigation."""
    assert isinstance(config.nav, list)
    config.nav += [
        {
            "Reference": [
                {"Configuration": [f"reference/{name}" for name in configuration_pages()]},
                {"Commands": [{name.split()[-1]: command_path(name)} for name in commands()]},
                {"Modules": [{name: module_path(name)} for name in packages()]},
            ]
        },
        {"Project": [{title: path.lower()} for title, path in ROOT_PAGES.items()]},
    ]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the made pages; commands say their help while the others are made."""
    made: dict[str, str] = {}
    with ThreadPoolExecutor() as pool:
        helps = pool.map(command_page, commands())
        for path in ROOT_PAGES.values():
            text = (REPOSITORY / path).read_text(encoding="utf-8")
            made[path.lower()] = LINK.sub(partial(from_root, page=path), text)
        made |= {f"reference/{name}": make() for name, make in configuration_pages().items()}
        made |= {module_path(name): module_page(name) for name in packages()}
        made |= {command_path(name): text for name, text in zip(commands(), helps, strict=True)}
    for path, text in made.items():
        files.append(File.generated(config, path, content=text))
    return files


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Links to files beside docs/, which are not part of the site, become their paths."""
    if page.file.generated_by is not None:
        return markdown
    return LINK.sub(partial(outside, page=page.file.src_uri), markdown)


def configuration_pages() -> dict[str, Callable[[], str]]:
    """The pages of the configuration, and what makes each."""
    pages: dict[str, Callable[[], str]] = {"configuration.md": overview_page}
    for group in GROUPS:
        pages[f"configuration-{group.replace('/', '-')}.md"] = partial(group_page, group)
    return pages


def command_path(name: str) -> str:
    """The page of a command."""
    return f"reference/command-{name.rpartition(' ')[2].replace('.', '-')}.md"


def module_path(package: str) -> str:
    """The page of a package's modules."""
    return f"reference/{package}.md"


def outside(link: re.Match[str], page: str) -> str:
    """A link of a page in docs/, or the path where it leads out of docs/."""
    target = link[3]
    if not target.startswith("../"):
        return link[0]
    path = (REPOSITORY / "docs" / page).parent / target
    if not path.exists():
        log.warning("%s links to %s, which is not there", page, target)
    return f"{link[2]} (`{path.resolve().relative_to(REPOSITORY)}`)"


def from_root(link: re.Match[str], page: str) -> str:
    """A link of a page in the root: into docs/ it leads to the page, elsewhere it is the path."""
    target = link[3]
    if "://" in target:
        return link[0]
    if target.startswith("docs/"):
        return f"{link[1]}[{link[2]}]({target.removeprefix('docs/')}{link[4] or ''})"
    if not (REPOSITORY / target).exists():
        log.warning("%s links to %s, which is not there", page, target)
    return f"{link[2]} (`{target}`)"
