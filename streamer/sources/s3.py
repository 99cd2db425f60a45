"""Files of S3 and of what speaks its protocol, read by range under their ETag."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from concurrent.futures import Future
from typing import Any

from streamer.errors import SourceError
from streamer.sources.address import shown
from streamer.sources.files import Identity, SourceFile
from streamer.sources.filesystem import find_files
from streamer.sources.ranges import Sink
from streamer.sources.remote import (
    NUM_REQUESTS,
    Counters,
    Patience,
    RemoteStore,
    TroubleError,
    missing_package,
    raise_for_status,
)

CHUNK_BYTES = 256 << 10
CREDENTIALS = (
    "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or FSSPEC_S3_ANON=true for a public bucket"
)


class S3Store(RemoteStore):
    """s3://BUCKET/KEY, with the credentials and the endpoint of the usual variables."""

    def __init__(self, patience: Patience, counters: Counters, stopped: Future[None]) -> None:
        super().__init__(patience, counters, stopped)
        try:
            import s3fs
        except ImportError as error:
            raise missing_package("s3://", "s3fs", "s3") from error
        for name in ("aiobotocore", "botocore", "s3fs"):
            logging.getLogger(name).setLevel(logging.WARNING)
        self._file_system: Any = s3fs.S3FileSystem(
            use_listings_cache=False,
            skip_instance_cache=True,
            config_kwargs={
                "connect_timeout": patience.stall_seconds,
                "read_timeout": patience.stall_seconds,
                "max_pool_connections": NUM_REQUESTS,
                "retries": {"total_max_attempts": 1},  # ours is the patience
            },
        )
        self._file_system.retries = 1

    def find(self, address: str) -> list[SourceFile]:
        """The objects of a key, prefix or glob."""
        try:
            found = find_files(self._file_system, address.partition("://")[2])
        except Exception as error:
            raise _translate(error, shown(address)) from error
        return [
            SourceFile(f"s3://{name}", Identity(int(info["size"]), f"etag:{info['ETag']}"), "")
            for name, info in found.items()
        ]

    def fetch(self, file: SourceFile, start: int, stop: int, into: Sink) -> None:
        """One GetObject, refused where the ETag is another one."""
        try:
            self.run(self._get(file, start, stop, into))
        except TroubleError:
            raise
        except Exception as error:
            if _status(error)[0] in (404, 412, 416):
                raise file.changed() from error
            raise _translate(error, file.name) from error

    async def _get(self, file: SourceFile, start: int, stop: int, into: Sink) -> None:
        bucket, key, _ = self._file_system.split_path(file.address)
        client = await self._file_system.get_s3(bucket)
        answer = await client.get_object(
            Bucket=bucket,
            Key=key,
            Range=f"bytes={start}-{stop - 1}",
            IfMatch=file.identity.version.partition(":")[2],
        )
        body = answer["Body"]
        try:
            span = answer.get("ContentRange", "")
            num_skipped = 0 if span.startswith(f"bytes {start}-") else start
            await self.collect(_chunks(body), num_skipped, stop - start, into)
        finally:
            body.close()


async def _chunks(body: Any) -> AsyncIterator[bytes]:
    while chunk := await body.read(CHUNK_BYTES):
        yield chunk


def _status(error: BaseException) -> tuple[int, str, str | None]:
    """HTTP status, words and Retry-After of an error, 0 where it has none."""
    response = getattr(error, "response", None) or getattr(error.__cause__, "response", None)
    if not isinstance(response, dict):
        return 0, "", None
    metadata = response.get("ResponseMetadata", {})
    words = response.get("Error", {}).get("Code", "")
    retry_after = metadata.get("HTTPHeaders", {}).get("retry-after")
    return int(metadata.get("HTTPStatusCode", 0)), str(words), retry_after


def _translate(error: Exception, name: str) -> Exception:
    """What an error of the libraries means; it is itself where it is neither theirs nor known."""
    import aiohttp
    from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError

    if isinstance(error, NoCredentialsError):
        return SourceError(f"no access to {name}: {CREDENTIALS}")
    status, words, retry_after = _status(error)
    try:
        raise_for_status(name, status, words, retry_after)
    except (SourceError, TroubleError) as found:
        return found
    if isinstance(error, FileNotFoundError):
        return SourceError(f"source not found: {name}; check the address")
    if isinstance(error, PermissionError):
        return SourceError(f"no access to {name}; check the credentials")
    if isinstance(error, (BotoCoreError, ClientError, aiohttp.ClientError, OSError, TimeoutError)):
        return TroubleError(f"{type(error).__name__} {error}")
    return error
