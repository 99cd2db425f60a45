"""Files of web servers: each address is one file, read by range under its ETag."""

from __future__ import annotations

import asyncio
import glob
import hashlib
import logging
from collections.abc import AsyncIterator, Mapping
from concurrent.futures import Future
from contextlib import asynccontextmanager, suppress
from dataclasses import replace

import aiohttp

from streamer.errors import SourceError
from streamer.sources.address import shown, without_query
from streamer.sources.files import SUFFIXES, Identity, SourceFile, format_of
from streamer.sources.ranges import Sink
from streamer.sources.remote import (
    Counters,
    Patience,
    RemoteStore,
    TroubleError,
    raise_for_status,
)

log = logging.getLogger(__name__)

SAMPLE_BYTES = 64 << 10
"""First and last bytes that stand for a file of which a server tells neither ETag nor date."""
CHUNK_BYTES = 256 << 10
CLOSING_SECONDS = 1.0


class HttpStore(RemoteStore):
    """http:// and https://, through the proxies of the environment."""

    def __init__(self, patience: Patience, counters: Counters, stopped: Future[None]) -> None:
        super().__init__(patience, counters, stopped)
        self._session: aiohttp.ClientSession | None = None
        self._warned: set[str] = set()

    def find(self, address: str) -> list[SourceFile]:
        """The one file, from the answer to a request for its first byte."""
        if glob.has_magic(without_query(address)):
            raise SourceError(
                f"{shown(address)}: a web server cannot list files; "
                "name each file with a --source of its own"
            )
        if format_of(address) is None:
            raise SourceError(
                f"{shown(address)} is none of {', '.join(SUFFIXES)}; name each file of a folder"
            )
        return [self.run(self._describe(SourceFile(address, Identity(0, ""), "")))]

    def fetch(self, file: SourceFile, start: int, stop: int, into: Sink) -> None:
        """One request."""
        self.run(self._get(file, start, stop, into))

    def check(self, file: SourceFile) -> None:
        """A file without ETag and date is described again."""
        if file.identity.version.startswith("samples:"):
            found = self.insist(file.name, lambda: self.find(file.address))
            if found[0].identity != file.identity:
                raise file.changed()

    def headers(self, file: SourceFile) -> dict[str, str]:
        """What is sent beside the range; the answer is refused where the file is another one."""
        kind, _, value = file.identity.version.partition(":")
        if kind == "etag" and not value.startswith("W/"):
            return {"If-Match": value}
        return {"If-Unmodified-Since": value} if kind == "modified" else {}

    async def _describe(self, file: SourceFile) -> SourceFile:
        async with self._request(file, {"Range": "bytes=0-0"}) as answer:
            headers, status = answer.headers, answer.status
            if status != 416:
                raise_for_status(file.name, status, answer.reason or "", headers.get("Retry-After"))
            if status == 200:
                size = headers.get("Content-Length", "")
            else:
                size = headers.get("Content-Range", "").rpartition("/")[2]
        if not size.isdigit():
            raise SourceError(f"cannot read {file.name}: the server does not tell its size")
        if status == 200 and int(size) > 0:
            self._warn(file.name, "the server gives no parts of files: it is read as a whole")
        version = _version(headers)
        found = replace(file, identity=Identity(int(size), version), has_ranges=status != 200)
        return found if version else await self._sampled(found)

    async def _sampled(self, file: SourceFile) -> SourceFile:
        size = file.identity.num_bytes
        self._warn(file.name, "the server tells neither ETag nor date: it is known by samples")
        data = bytearray()
        if file.has_ranges:
            await self._get(file, 0, min(SAMPLE_BYTES, size), data)
            await self._get(file, max(0, size - SAMPLE_BYTES), size, data)
        else:
            await self._get(file, 0, size, data)
        version = f"samples:{hashlib.sha256(data).hexdigest()}"
        return replace(file, identity=Identity(size, version))

    async def _get(self, file: SourceFile, start: int, stop: int, into: Sink) -> None:
        if stop <= start:
            return
        headers = {"Range": f"bytes={start}-{stop - 1}", **self.headers(file)}
        async with self._request(file, headers) as answer:
            if answer.status in (412, 416):
                raise file.changed()
            raise_for_status(
                file.name, answer.status, answer.reason or "", answer.headers.get("Retry-After")
            )
            num_skipped = self._check_answer(file, answer, start)
            chunks = answer.content.iter_chunked(CHUNK_BYTES)
            await self.collect(chunks, num_skipped, stop - start, into)

    def _check_answer(self, file: SourceFile, answer: aiohttp.ClientResponse, start: int) -> int:
        """How many bytes of an answer come before byte `start`; raises for another file."""
        if not file.pinned and "samples:" not in file.identity.version:
            found = _version(answer.headers)
            if file.identity.version and found and found != file.identity.version:
                raise file.changed()
        if answer.status == 200:
            size, first = answer.headers.get("Content-Length", ""), 0
        else:
            span, _, size = answer.headers.get("Content-Range", "").partition("/")
            digits = span.removeprefix("bytes ").partition("-")[0]
            if not digits.isdigit() or int(digits) != start:
                raise TroubleError("it answers with another part of the file")
            first = start
        if size.isdigit() and int(size) != file.identity.num_bytes:
            raise file.changed()
        return start - first

    @asynccontextmanager
    async def _request(
        self, file: SourceFile, headers: dict[str, str]
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        if self._session is None:
            seconds = self.patience.stall_seconds
            timeout = aiohttp.ClientTimeout(total=None, sock_connect=seconds, sock_read=seconds)
            self._session = aiohttp.ClientSession(
                timeout=timeout, trust_env=True, auto_decompress=False
            )
        headers = {"Accept-Encoding": "identity", **headers}
        try:
            async with self._session.get(file.pinned or file.address, headers=headers) as answer:
                yield answer
        except aiohttp.InvalidURL as error:
            raise SourceError(f"{file.name} is no address of a web server") from error
        except TimeoutError as error:
            raise TroubleError("it does not answer in time") from error
        except (aiohttp.ClientError, OSError) as error:
            raise TroubleError(f"{type(error).__name__} {error}") from error

    def close(self) -> None:
        """Ends the connections that are kept for the next request."""
        if self._session is not None:
            from fsspec.asyn import get_loop

            closing = asyncio.run_coroutine_threadsafe(self._session.close(), get_loop())
            self._session = None
            with suppress(TimeoutError):
                closing.result(CLOSING_SECONDS)

    def _warn(self, name: str, message: str) -> None:
        if (name + message) not in self._warned:
            self._warned.add(name + message)
            log.warning("%s: %s", name, message)


def _version(headers: Mapping[str, str]) -> str:
    if etag := headers.get("ETag"):
        return f"etag:{etag}"
    date = headers.get("Last-Modified")
    return f"modified:{date}" if date else ""
