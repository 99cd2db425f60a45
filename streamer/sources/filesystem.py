"""Files of any other file system that fsspec knows, as gs:// and memory://."""

from __future__ import annotations

import glob
import logging
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any

from streamer.errors import SourceError
from streamer.sources.address import protocol_of, shown
from streamer.sources.files import Identity, SourceFile, format_of
from streamer.sources.ranges import Sink
from streamer.sources.remote import RemoteStore, TroubleError, missing_package

log = logging.getLogger(__name__)

VERSION_KEYS = ("sha256", "etag", "ETag", "md5", "md5Hash", "generation", "version_id", "mtime")
DATE_KEYS = ("LastModified", "last_modified", "updated", "modified", "created")


class FileSystemStore(RemoteStore):
    """Found and read through fsspec, and looked at again after reading."""

    def find(self, address: str) -> list[SourceFile]:
        """The files of a file, folder or glob."""
        try:
            file_system, path = self.open(address)
            prefix = address[: len(address) - len(path)] if address.endswith(path) else ""
            found = find_files(file_system, path)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise SourceError(f"source not found: {shown(address)}") from error
        except PermissionError as error:
            raise SourceError(f"no access to {shown(address)}; check the credentials") from error
        except OSError as error:
            raise TroubleError(f"{type(error).__name__} {error}") from error
        prefix = prefix or f"{protocol_of(address)}://"
        if any(not version_of(info) for info in found.values()):
            log.warning("%s: only a change of size can be noticed there", shown(address))
        return [
            SourceFile(f"{prefix}{name}", Identity(int(info["size"]), version_of(info)), "")
            for name, info in found.items()
        ]

    def fetch(self, file: SourceFile, start: int, stop: int, into: Sink) -> None:
        """One read."""
        try:
            file_system, path = self.open(file.address)
            into.extend(self.in_time(lambda: file_system.cat_file(path, start=start, end=stop)))
        except FileNotFoundError as error:
            raise file.changed() from error
        except PermissionError as error:
            raise SourceError(f"no access to {file.name}; check the credentials") from error
        except OSError as error:
            raise TroubleError(f"{type(error).__name__} {error}") from error

    def check(self, file: SourceFile) -> None:
        """Asks the file system again."""
        found = self.insist(file.name, lambda: self.in_time(lambda: self.find(file.address)))
        if [replace(each, digest=file.digest) for each in found] != [file]:
            raise file.changed()

    def open(self, address: str) -> tuple[Any, str]:
        """The file system of an address, and the path in it."""
        import fsspec

        try:
            file_system, path = fsspec.core.url_to_fs(address)
        except ImportError as error:
            raise missing_package(address, f"fsspec[{protocol_of(address)}]") from error
        except ValueError as error:
            raise SourceError(f"no file system is known for {shown(address)}: {error}") from error
        file_system.invalidate_cache()
        return file_system, path


def find_files(file_system: Any, path: str) -> dict[str, Mapping[str, Any]]:
    """Name and description of the readable files of a file, folder or glob, in order."""
    if glob.has_magic(path):
        root, found = "", file_system.glob(path, detail=True)
    else:
        root, found = path, None
        if format_of(path) is not None:
            info = file_system.info(path)
            found = {info["name"]: info} if info["type"] == "file" else None
        if found is None:
            found = file_system.find(path, detail=True)
    return {
        name: info
        for name, info in sorted(found.items())
        if info["type"] == "file" and format_of(name) and not _is_hidden(name, root)
    }


def _is_hidden(name: str, root: str) -> bool:
    return bool(root) and "/." in name.removeprefix(root.rstrip("/"))


def version_of(info: Mapping[str, Any]) -> str:
    """What a file system says of a file's content, "" where it says nothing."""
    for key in (*VERSION_KEYS, *DATE_KEYS):
        if value := info.get(key):
            is_date = isinstance(value, datetime)  # some file systems give both in turn
            return f"{key.lower()}:{value.timestamp() if is_date else value}"
    return ""
