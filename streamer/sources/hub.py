"""Files of the Hugging Face hub: listed at one commit, and read from that commit alone."""

from __future__ import annotations

import logging
from concurrent.futures import Future
from dataclasses import replace
from typing import Any

from streamer.errors import SourceError
from streamer.sources.address import shown
from streamer.sources.files import Identity, SourceFile
from streamer.sources.filesystem import find_files
from streamer.sources.http import HttpStore
from streamer.sources.remote import (
    Counters,
    Patience,
    TroubleError,
    missing_package,
    raise_for_status,
)

HTTP_CLIENTS = ("httpx", "httpx2", "httpcore", "httpcore2", "requests")
"""What the hub's library may be built on; they log each address, signatures and all."""


class HubStore(HttpStore):
    """hf://datasets/OWNER/NAME[@REVISION]/PATH, with HF_TOKEN and HF_ENDPOINT."""

    def __init__(self, patience: Patience, counters: Counters, stopped: Future[None]) -> None:
        super().__init__(patience, counters, stopped)
        try:
            from huggingface_hub import HfFileSystem
        except ImportError as error:
            raise missing_package("hf://", "huggingface_hub", "hf") from error
        for name in HTTP_CLIENTS:
            logging.getLogger(name).setLevel(logging.WARNING)
        self._make_file_system = HfFileSystem
        self._token_headers: dict[str, str] = {}
        self._known: dict[str, tuple[str, list[SourceFile]]] = {}

    def find(self, address: str) -> list[SourceFile]:
        """The files of a file, folder or glob as they are at the newest commit."""
        try:
            return self._find(address)
        except (SourceError, TroubleError):
            raise
        except Exception as error:
            raise _translate(error, shown(address)) from error

    def headers(self, file: SourceFile) -> dict[str, str]:
        """The token. A commit does not change, so that no version needs to be named."""
        return self._token_headers

    def check(self, file: SourceFile) -> None:
        """A commit does not change."""

    def _find(self, address: str) -> list[SourceFile]:
        from huggingface_hub import HfApi, hf_hub_url
        from huggingface_hub.utils._headers import build_hf_headers

        address = address.rstrip("/")
        file_system: Any = self._make_file_system(skip_instance_cache=True)
        place = file_system.resolve_path(address)
        if not hasattr(place, "repo_id"):
            raise SourceError(f"{shown(address)} is no repository; name a model or a dataset")
        commit = str(
            HfApi(endpoint=file_system.endpoint)
            .repo_info(place.repo_id, repo_type=place.repo_type, revision=place.revision)
            .sha
        )
        known_commit, files = self._known.get(address, ("", []))
        if known_commit == commit:
            return files
        pinned = replace(place, revision=commit, _raw_revision=None)
        root = replace(pinned, path_in_repo="").unresolve()
        prefix = address[: len(address) - len(place.path_in_repo)].rstrip("/")
        self._token_headers = {
            key: value
            for key, value in build_hf_headers().items()
            if key.lower() in ("authorization", "user-agent")
        }
        files = []
        for name, info in find_files(file_system, pinned.unresolve()).items():
            path = name.removeprefix(f"{root}/")
            url = hf_hub_url(
                place.repo_id,
                path,
                repo_type=place.repo_type,
                revision=commit,
                endpoint=file_system.endpoint,
            )
            identity = Identity(int(info["size"]), _version(info))
            files.append(SourceFile(f"{prefix}/{path}", identity, "", url))
        self._known[address] = commit, files
        return files


def _version(info: Any) -> str:
    lfs = info.get("lfs")
    digest = lfs.get("sha256") if isinstance(lfs, dict) else getattr(lfs, "sha256", None)
    return f"sha256:{digest}" if digest else f"blob:{info['blob_id']}"


def _translate(error: Exception, name: str) -> Exception:
    response = getattr(error, "response", None)
    if response is not None and hasattr(response, "status_code"):
        try:
            retry_after = response.headers.get("Retry-After")
            raise_for_status(name, response.status_code, "", retry_after)
        except (SourceError, TroubleError) as found:
            return found
    if isinstance(error, FileNotFoundError):
        return SourceError(f"source not found: {name}; check the address and HF_TOKEN")
    if isinstance(error, (NotImplementedError, ValueError)):
        return SourceError(f"{name} is no address on the hub: {error}")
    if isinstance(error, OSError) or type(error).__module__.split(".")[0] in HTTP_CLIENTS:
        return TroubleError(f"{type(error).__name__} {error}")
    return error
