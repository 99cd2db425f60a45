"""The command line of the streamer."""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import difflib
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from streamer.access import AccessError, is_loopback
from streamer.cache import default_cache_dir
from streamer.disk import DEFAULT_MAX_BYTES
from streamer.errors import SourceError, one_line
from streamer.gate import ListenError
from streamer.logs import FORMATS, Logging
from streamer.protocol import Limits
from streamer.server import ServerOptions, serve
from streamer.sources.address import shown
from streamer.sources.spec import ON_BAD_DOCUMENT, SourceSpec, split_weight
from streamer.sources.template import Template

HELP_COLUMNS = 100
"""Width that help does not exceed, also where the terminal is wider."""


class HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Help no wider than HELP_COLUMNS, and descriptions as they are written."""

    def __init__(self, prog: str) -> None:
        columns = min(shutil.get_terminal_size().columns, HELP_COLUMNS)
        super().__init__(prog, width=columns - 2)


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line; its help ends with examples, command lines that work."""

    def __init__(
        self, *, examples: Sequence[str] = (), epilog: str | None = None, **options: Any
    ) -> None:
        lines = "\n".join(["examples:", *(f"  {line}" for line in examples)])
        parts = [epilog, lines if examples else None]
        options.setdefault("formatter_class", HelpFormatter)
        super().__init__(epilog="\n\n".join(filter(None, parts)), **options)

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{one_line(message)} (see {self.prog} --help)\n")


def build_parser() -> Parser:
    """The options of `python -m streamer`."""
    parser = Parser(
        prog="python -m streamer",
        description="Serve a text corpus as token batches over a WebSocket. Prints where once it\n"
        "is ready, and serves until Ctrl-C or SIGTERM.",
        examples=(
            "python -m streamer --source my_texts/",
            "python -m streamer --source my_texts/=3 --source more_texts/ --port 9000",
            "python -m streamer --source my_texts/ --host 0.0.0.0 --token-file tokens.txt",
        ),
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
        "--prompt",
        action="append",
        metavar="PIECE",
        help="serve instructions: each --prompt is a piece of the prompts, with {COLUMN} where a "
        "column comes, left out where that is empty; --column holds the responses",
    )
    parser.add_argument(
        "--on-bad-document",
        choices=ON_BAD_DOCUMENT,
        default="error",
        help="what a document that cannot be read does: end the stream, or be left out "
        "(default: error)",
    )
    parser.add_argument("--host", default="127.0.0.1", help="address (default: 127.0.0.1)")
    parser.add_argument(
        "--port", type=int, default=8000, help="port; 0 lets the system choose (default: 8000)"
    )
    parser.add_argument(
        "--cache-dir", type=Path, help="folder of the token cache (default: in ~/.cache)"
    )
    parser.add_argument(
        "--cache-gb",
        type=float,
        default=DEFAULT_MAX_BYTES / 1e9,
        help="size in GB up to which it grows; what was not used for longest goes first "
        "(default: %(default)g)",
    )
    _add_access(parser)
    parser.add_argument(
        "--limit",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="change a limit; may be repeated; names and values: "
        + ", ".join(f"{field.name}={field.default}" for field in dataclasses.fields(Limits)),
    )
    parser.add_argument(
        "--log-format",
        choices=FORMATS,
        default="text",
        help="how a line of the log on standard error looks (default: text)",
    )
    parser.add_argument(
        "--stop-with-parent",
        action="store_true",
        help="end when standard input closes or the parent process is gone",
    )
    return parser


def _add_access(parser: Parser) -> None:
    parser.add_argument(
        "--token-file",
        type=Path,
        metavar="F",
        help="let in only who sends one of its tokens, one a line of at least 16 characters, as "
        "Authorization: Bearer TOKEN or ?token=TOKEN; read again on SIGHUP",
    )
    parser.add_argument("--tls-cert", type=Path, metavar="C", help="PEM certificates: serve wss://")
    parser.add_argument("--tls-key", type=Path, metavar="K", help="PEM key of the certificate")
    parser.add_argument(
        "--insecure",
        action="store_true",
        help="allow an address that others can reach, although nobody has to identify themselves",
    )


def parse_sources(parser: Parser, options: argparse.Namespace) -> tuple[SourceSpec, ...]:
    """The sources of a command line, which must differ from one another."""
    specs = []
    prompt = None if options.prompt is None else tuple(options.prompt)
    if prompt is not None:
        try:
            Template(prompt)
        except ValueError as error:
            parser.error(f"--prompt {error}")
    for source in options.source:
        try:
            address, weight = split_weight(source)
        except ValueError as error:
            parser.error(str(error))
        specs.append(SourceSpec(address, weight, options.column, options.on_bad_document, prompt))
    addresses = [spec.address for spec in specs]
    for address in addresses:
        if addresses.count(address) > 1:
            parser.error(
                f"--source {shown(address)} is given twice; give it once with a larger weight"
            )
    return tuple(specs)


def parse_limits(parser: Parser, settings: Sequence[str]) -> Limits:
    """The limits of a command line."""
    known = {name: type(value) for name, value in dataclasses.asdict(Limits()).items()}
    values: dict[str, Any] = {}
    for setting in settings:
        name, _, text = setting.partition("=")
        if name not in known:
            (near,) = difflib.get_close_matches(name, known, 1, 0.0)
            parser.error(f"--limit {name} is no limit; did you mean {near}?")
        try:
            values[name] = known[name](text)
        except ValueError:
            kind = "a whole number" if known[name] is int else "a number"
            parser.error(f"--limit {setting}: {name} is {kind}, as in {name}=10")
    try:
        return Limits(**values)
    except ValueError as error:
        parser.error(f"--{error}")


def check_access(parser: Parser, options: argparse.Namespace) -> None:
    """Refuses a server that others can reach without having to identify themselves."""
    if not is_loopback(options.host) and options.token_file is None and not options.insecure:
        parser.error(
            f"--host {options.host} is open to others; add --token-file F, or --insecure to insist"
        )
    if (options.tls_cert is None) != (options.tls_key is None):
        parser.error("--tls-cert and --tls-key belong together; give both")


def main(argv: Sequence[str] | None = None) -> int:
    """Serves until stopped; returns 0, 1 for what cannot be served, 2 for bad usage."""
    parser = build_parser()
    try:
        options = parser.parse_args(argv)
        sources = parse_sources(parser, options)
        if not 0 <= options.port <= 65535:
            parser.error(f"--port {options.port} is not from 0 to 65535")
        if not options.cache_gb > 0:
            parser.error(f"--cache-gb {options.cache_gb:g} is not above 0")
        limits = parse_limits(parser, options.limit)
        check_access(parser, options)
    except SystemExit as done:
        return int(done.code or 0)
    server_options = ServerOptions(
        sources=sources,
        host=options.host,
        port=options.port,
        cache_dir=options.cache_dir or default_cache_dir(),
        cache_bytes=int(min(options.cache_gb * 1e9, 2**62)),
        stop_with_parent=options.stop_with_parent,
        token_file=options.token_file,
        tls=None if options.tls_cert is None else (options.tls_cert, options.tls_key),
        limits=limits,
    )
    try:
        with Logging(options.log_format):
            asyncio.run(serve(server_options))
    except (SourceError, ListenError, AccessError) as error:
        print(one_line(str(error)), file=sys.stderr)
        return 1
    return 0
