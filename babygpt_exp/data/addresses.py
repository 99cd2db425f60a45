"""The addresses of streamers that run already: one, or those of several that serve the same."""

from __future__ import annotations

import random

SCHEMES = ("ws://", "wss://")


def read_addresses(url: str | list[str]) -> list[str]:
    """`data.url` as a list; ValueError says in words what is wrong with it."""
    urls = [url] if isinstance(url, str) else url
    problems = [
        f"data.url={address} must start with {' or '.join(SCHEMES)}"
        for address in urls
        if not address.startswith(SCHEMES)
    ]
    if len(set(urls)) < max(1, len(urls)):
        problems.append("data.url must name at least one address, and none twice")
    if problems:
        raise ValueError("; ".join(problems))
    return urls


def shuffled(urls: list[str]) -> list[str]:
    """The addresses in an order that no seed decides, so that runs spread over them.

    It decides nothing: whichever answers, the stream is the same.
    """
    return random.Random().sample(urls, len(urls))
