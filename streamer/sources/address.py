"""Addresses of sources: local or not, and how they are shown without their secrets."""

from __future__ import annotations

import re

_PROTOCOL = re.compile(r"([A-Za-z][A-Za-z0-9+.\-]+)://")
_URL = re.compile(r"(\b[A-Za-z][A-Za-z0-9+.\-]+://)([^\s/?#'\"]*@)?([^\s?#'\"]*)([?#][^\s'\"]*)?")


def protocol_of(address: str) -> str | None:
    """The protocol of a URL in small letters, None for a path of this machine."""
    found = _PROTOCOL.match(address)
    return found[1].lower() if found else None


def without_query(address: str) -> str:
    """An address up to its query, which only http and https have; elsewhere ? is a wildcard."""
    if protocol_of(address) not in ("http", "https"):
        return address
    return re.split(r"[?#]", address, maxsplit=1)[0]


def shown(text: str) -> str:
    """`text` without what URLs in it may hide: user and password, and the values of a query."""

    def show(url: re.Match[str]) -> str:
        query = url[4] or ""
        is_secret = "=" in query or url[1].lower().startswith("http")
        return f"{url[1]}{url[3]}{'?...' if query and is_secret else query}"

    return _URL.sub(show, text)


def name_of(address: str) -> str:
    """A short name for people: the last part of the path that is no pattern, up to its dot."""
    parts = re.split("/+", without_query(shown(address)))
    names = [part.split(".")[0] for part in parts if not re.search(r"[*?\[]|:$", part)]
    return next((name for name in reversed(names) if name), shown(address))
