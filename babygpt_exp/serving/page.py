"""The page to try the model: a file that needs nothing from elsewhere."""

from __future__ import annotations

import secrets
from html import escape
from importlib.metadata import version
from pathlib import Path

from streamer.status import headers

TEMPLATE = Path(__file__).with_name("page.html")


def page() -> tuple[str, dict[str, str]]:
    """The page and its headers."""
    nonce = secrets.token_urlsafe(16)
    text = TEMPLATE.read_text("utf-8").replace("@NONCE@", nonce)
    return text.replace("@VERSION@", escape(version("babygpt-exp"))), headers(nonce)
