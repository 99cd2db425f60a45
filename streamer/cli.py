"""The command line of the streamer."""

from __future__ import annotations

import argparse
import asyncio
import ipaddress
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from streamer.cache import default_cache_dir
from streamer.errors import SourceError, one_line
from streamer.server import ListenError, ServerOptions, serve


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{one_line(message)} (see {self.prog} --help)\n")


def build_parser() -> Parser:
    """The options of `python -m streamer`."""
    parser = Parser(
        prog="python -m streamer",
        description="Serve a text corpus as token batches over a WebSocket.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--source",
        action="append",
        required=True,
        metavar="PATH",
        help="file, folder or glob of .parquet, .jsonl, .txt, also .gz and .zst of the latter two",
    )
    parser.add_argument(
        "--column", default="text", help="column or field that holds the text (default: text)"
    )
    parser.add_argument("--host", default="127.0.0.1", help="address (default: 127.0.0.1)")
    parser.add_argument(
        "--port", type=int, default=8000, help="port; 0 lets the system choose (default: 8000)"
    )
    parser.add_argument(
        "--cache-dir", type=Path, help="folder of the token cache (default: in ~/.cache)"
    )
    parser.add_argument(
        "--insecure",
        action="store_true",
        help="allow an address that others can reach, although nobody has to identify themselves",
    )
    parser.add_argument(
        "--stop-with-parent",
        action="store_true",
        help="end when standard input closes or the parent process is gone",
    )
    return parser


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def main(argv: Sequence[str] | None = None) -> int:
    """Serves until stopped; returns 0, 1 for what cannot be served, 2 for bad usage."""
    parser = build_parser()
    try:
        options = parser.parse_args(argv)
        if len(options.source) > 1:
            parser.error("give one --source; a folder or a glob holds several files")
        if not 0 <= options.port <= 65535:
            parser.error(f"--port {options.port} is not from 0 to 65535")
        if not is_loopback(options.host) and not options.insecure:
            parser.error(f"--host {options.host} is open to others; add --insecure to insist")
    except SystemExit as done:
        return int(done.code or 0)
    logging.basicConfig(
        stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s"
    )
    server_options = ServerOptions(
        source=options.source[0],
        column=options.column,
        host=options.host,
        port=options.port,
        cache_dir=options.cache_dir or default_cache_dir(),
        stop_with_parent=options.stop_with_parent,
    )
    try:
        asyncio.run(serve(server_options))
    except (SourceError, ListenError) as error:
        print(one_line(str(error)), file=sys.stderr)
        return 1
    return 0
