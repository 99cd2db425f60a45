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
from streamer.sources.spec import ON_BAD_DOCUMENT, SourceSpec, split_weight


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
        metavar="PATH_OR_URL[=WEIGHT]",
        help="file, folder or glob of .parquet, .jsonl, .txt, also .gz and .zst of the latter two; "
        "local or hf://, s3://, http(s)://; several are mixed by weight",
    )
    parser.add_argument(
        "--column", default="text", help="column or field that holds the text (default: text)"
    )
    parser.add_argument(
        "--on-bad-document",
        choices=ON_BAD_DOCUMENT,
        default="error",
        help="what a document that cannot be read does: end the stream, or be left out",
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


def parse_sources(parser: Parser, options: argparse.Namespace) -> tuple[SourceSpec, ...]:
    """The sources of a command line, which must differ from one another."""
    specs = []
    for source in options.source:
        try:
            address, weight = split_weight(source)
        except ValueError as error:
            parser.error(str(error))
        specs.append(SourceSpec(address, weight, options.column, options.on_bad_document))
    addresses = [spec.address for spec in specs]
    for address in addresses:
        if addresses.count(address) > 1:
            parser.error(f"--source {address} is given twice; give it once with a larger weight")
    return tuple(specs)


def main(argv: Sequence[str] | None = None) -> int:
    """Serves until stopped; returns 0, 1 for what cannot be served, 2 for bad usage."""
    parser = build_parser()
    try:
        options = parser.parse_args(argv)
        sources = parse_sources(parser, options)
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
        sources=sources,
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
