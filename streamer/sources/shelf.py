"""The shelf: where sources are listed and shards are read, with all that this needs."""

from __future__ import annotations

import io
import os
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from typing import Any, BinaryIO, cast

from streamer.disk import CacheDisk
from streamer.errors import SourceError
from streamer.sources import jsonl, parquet, text
from streamer.sources.address import name_of, protocol_of, shown
from streamer.sources.bad import BadDocuments
from streamer.sources.content import chunks_of, content_of
from streamer.sources.document_cache import DocumentCache, Documents
from streamer.sources.files import FileMemo, Identity, SourceFile, local_identity
from streamer.sources.footers import Footers
from streamer.sources.listing import (
    FileShards,
    Listing,
    Shard,
    Shards,
    find_local,
    remote_digest,
    shards_of,
    source_fingerprint,
)
from streamer.sources.ranges import FileSink, RangeFile
from streamer.sources.remote import NUM_REQUESTS, Counters, Patience
from streamer.sources.spec import SourceSpec
from streamer.sources.stores import Stores

BUFFER_BYTES = 256 << 10
"""Read at least at once, of a file of which a part is read."""
WHOLE_BUFFER_BYTES = 8 << 20
"""The same of a file that is read to its end."""
COUNTED_BYTES = 256 << 20
"""A bad line further from the start of its file is named by its byte: its number is not worth
reading so much."""


class _CountedFile(io.FileIO):
    """A local file; what is read of it is counted."""

    def __init__(self, path: str, counters: Counters) -> None:
        super().__init__(path)
        self._counters = counters

    def readinto(self, buffer: Any) -> int:
        num_bytes = super().readinto(buffer)
        self._counters.add("read_bytes", num_bytes)
        return num_bytes


class Shelf:
    """Lists sources and reads their shards, in whatever thread; `close` ends waits at once."""

    def __init__(self, disk: CacheDisk, patience: Patience | None = None) -> None:
        self.counters = Counters()
        """What was done so far: requests, retries, bytes, bad documents, cache hits."""
        self._disk = disk
        self._stores = Stores(patience or Patience(), self.counters)
        self._memo = FileMemo(disk.folder / "files")
        self._documents = DocumentCache(disk)
        self._footers = Footers(self._documents, self._read_tail)
        self._whole_locks: dict[SourceFile, threading.Lock] = {}
        self._reported: set[str] = set()
        self._lock = threading.Lock()

    def close(self) -> None:
        """Gives up what waits for a store."""
        self._stores.close()

    def scan(self, address: str) -> dict[str, Identity]:
        """The files of a source as they are now, or as they were a minute ago if remote."""
        if protocol_of(address) is None:
            return find_local(address)
        return {file.address: file.identity for file in self._stores.find(address)}

    def list_source(self, spec: SourceSpec) -> Listing:
        """Lists a source: looks at its files and finds its shards; raises SourceError.

        Local files are hashed, unless they are known. Of remote ones nothing is read but the
        footers of parquet files.
        """
        is_remote = protocol_of(spec.address) is not None
        num_threads = NUM_REQUESTS if is_remote else min(8, os.cpu_count() or 1)
        with ThreadPoolExecutor(num_threads) as pool:
            if is_remote:
                files = self._stores.find(spec.address)
            else:
                files = list(pool.map(self._describe, find_local(spec.address)))
            found = list(pool.map(lambda file: self._list_file(file, spec), files))
        found = [each for each in found if each[0]]
        if not found:
            raise SourceError(f"{shown(spec.address)} holds no text: every file in it is empty")
        return Listing(
            name=name_of(spec.address),
            spec=spec,
            snapshot={file.address: file.identity for file in files},
            shards=Shards(tuple(shards for shards, _ in found)),
            num_bytes=sum(file.identity.num_bytes for file in files),
            fingerprint=source_fingerprint(fingerprints for _, fingerprints in found),
        )

    def read_shard(self, shard: Shard, spec: SourceSpec) -> list[str]:
        """The texts of one shard's documents in order, `spec.num_parts` of each.

        Raises SourceError naming file and row group or line when they cannot be read, or when the
        file is no longer the one that was listed.
        """
        try:
            found = self._find(shard, spec)
        except SourceError as error:
            if not error.retry:
                self._stores.forget(spec.address)
            raise
        self._report(shard, found)
        return found.texts

    def _find(self, shard: Shard, spec: SourceSpec) -> Documents:
        file = shard.file
        if not self._is_remote(file) and not file.is_read_whole:
            return self._read_plain(shard, spec)
        found = self._load(shard)
        if found is None and file.is_read_whole:
            with self._whole_lock(file):
                found = self._load(shard) or self._read_whole(shard, spec)
        elif found is None:
            found = self._read_plain(shard, spec)
            self._documents.store(shard.fingerprint, found)
        return found

    def _report(self, shard: Shard, found: Documents) -> None:
        with self._lock:
            is_new = shard.fingerprint not in self._reported
            if found.num_bad:
                self._reported.add(shard.fingerprint)
        if found.num_bad and is_new:
            self.counters.add("bad_documents", found.num_bad)
            BadDocuments(shard.file.name, True, found.num_bad, found.first_bad).report()

    def _load(self, shard: Shard) -> Documents | None:
        found = self._documents.load(shard.fingerprint)
        self.counters.add("document_misses" if found is None else "document_hits")
        return found

    def _describe(self, path: str) -> SourceFile:
        file = self._memo.describe(path)
        self.counters.add("hashed_files")
        return file

    def _list_file(self, file: SourceFile, spec: SourceSpec) -> tuple[FileShards, str]:
        """The shards of a file, and their fingerprints."""
        counts, footer_digest = None, ""
        if file.format == "text" and spec.prompt is not None:
            raise SourceError(
                f"{file.name} has no columns to make prompts of; give parquet or jsonl"
            )
        if file.format == "parquet" and file.identity.num_bytes:
            footer = self._footers.get(file)
            counts = parquet.row_counts(file.name, footer, spec.columns)
            footer_digest = footer.digest
        if self._is_remote(file):
            file = remote_digest(file, footer_digest)
        elif file.format == "jsonl" and spec.on_bad_document == "error":
            self._check_first_line(file, spec)
        shards = shards_of(file, spec, counts)
        found = shards, shards.fingerprints
        self.counters.add("listed_files")
        return found

    def _check_first_line(self, file: SourceFile, spec: SourceSpec) -> None:
        bad = BadDocuments(file.name, is_skipping=False)
        with self._reading(file):
            with closing(chunks_of(file, lambda: self._open(file), bad)) as chunks:
                chunk = next(chunks, b"")
            if b"\n" in chunk:
                jsonl.check_first_line(io.BytesIO(chunk), spec, bad)

    def _read_plain(self, shard: Shard, spec: SourceSpec) -> Documents:
        file = shard.file
        bad = BadDocuments(file.name, spec.on_bad_document == "skip")
        with self._reading(file), self._open(file) as stream:
            return self._parse(shard, spec, stream, file.identity.num_bytes, bad)

    def _read_whole(self, wanted: Shard, spec: SourceSpec) -> Documents:
        """Reads a file once, and keeps the documents of its other shards too."""
        file, is_skipping = wanted.file, spec.on_bad_document == "skip"
        counts = None
        if file.format == "parquet":
            counts = parquet.row_counts(file.name, self._footers.get(file), spec.columns)
        damage = BadDocuments(file.name, is_skipping)
        found = None
        with ExitStack() as stack:
            with self._reading(file):
                copied = content_of(file, lambda: self._open(file), self._disk, damage)
                content = stack.enter_context(copied)
            num_bytes = content.seek(0, io.SEEK_END)
            damage.report()
            self.counters.add("bad_documents", damage.num_documents)
            for shard in shards_of(file, spec, counts):
                bad = BadDocuments(file.name, is_skipping)
                try:
                    made = self._parse(shard, spec, content, num_bytes, bad)
                except SourceError:
                    if shard == wanted:
                        raise
                    continue
                self._documents.store(shard.fingerprint, made)
                if shard == wanted:
                    found = made
        assert found is not None, wanted
        return found

    def _parse(
        self, shard: Shard, spec: SourceSpec, stream: BinaryIO, num_bytes: int, bad: BadDocuments
    ) -> Documents:
        file, (start, stop) = shard.file, shard.span(num_bytes)
        if file.format == "parquet":
            texts = parquet.read_documents(
                stream, num_bytes, self._footers.get(file), shard.start, spec, bad
            )
        elif file.format == "text":
            texts = text.read_documents(stream, start, stop, num_bytes, bad)
        else:
            is_near = not self._is_remote(file) or file.is_read_whole

            def line_at(position: int) -> str:
                if position > (COUNTED_BYTES if is_near else 0):
                    return f"at byte {position}"
                return f"line {jsonl.line_number(stream, position)}"

            texts = jsonl.read_documents(stream, start, stop, spec, bad, line_at)
        self.counters.add("read_documents", len(texts))
        return Documents(texts, bad.num_documents, bad.first)

    def _read_tail(self, file: SourceFile) -> bytes:
        with self._reading(file), self._open(file) as stream:
            return parquet.read_tail(file.name, stream, file.identity.num_bytes)

    @contextmanager
    def _reading(self, file: SourceFile) -> Iterator[None]:
        """Makes sure that the file is the one that was listed, before and after."""
        if not self._is_remote(file):
            self._check(file)
        try:
            yield
        except OSError as error:
            raise SourceError(f"cannot read {file.name}: {error.strerror or error}") from error
        self._check(file)

    def _check(self, file: SourceFile) -> None:
        if self._is_remote(file):
            self._stores.of(file.address).check(file)
        elif local_identity(file.address) != file.identity:
            raise file.changed()

    def _open(self, file: SourceFile) -> BinaryIO:
        if not self._is_remote(file):
            try:
                local = _CountedFile(file.address, self.counters)
                return io.BufferedReader(local, BUFFER_BYTES)
            except OSError as error:
                raise SourceError(f"cannot read {file.name}: {error.strerror or error}") from error
        store = self._stores.of(file.address)
        if not file.has_ranges:
            whole = cast(BinaryIO, tempfile.TemporaryFile())  # noqa: SIM115 (the caller closes it)
            store.read(file, 0, file.identity.num_bytes, FileSink(whole))
            whole.seek(0)
            return whole
        raw = RangeFile(store, file)
        if file.format == "parquet":
            return cast(BinaryIO, raw)  # each read is one request, of what is needed alone
        size = WHOLE_BUFFER_BYTES if file.is_read_whole else BUFFER_BYTES
        return cast(BinaryIO, io.BufferedReader(raw, size))

    def _is_remote(self, file: SourceFile) -> bool:
        return protocol_of(file.address) is not None

    def _whole_lock(self, file: SourceFile) -> threading.Lock:
        with self._lock:
            return self._whole_locks.setdefault(file, threading.Lock())
