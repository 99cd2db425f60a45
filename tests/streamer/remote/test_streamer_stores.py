"""The stores that list folders, each by the suite of all."""

from __future__ import annotations

from typing import Any

import fsspec
import pytest
from store_suite import StoreSuite
from streamer_stores import BUCKET


class TestS3(StoreSuite):
    """s3://, at moto's server."""

    @pytest.fixture(autouse=True)
    def _bucket(self, bucket: Any) -> None:
        self.file_system = bucket

    def put(self, files: dict[str, bytes]) -> str:
        for path in self.file_system.find(BUCKET):
            self.file_system.rm(path)
        for name, content in files.items():
            self.file_system.pipe_file(f"{BUCKET}/folder/{name}", content)
        return f"s3://{BUCKET}/folder"


class TestMemory(StoreSuite):
    """memory://, as any other file system that fsspec knows."""

    def put(self, files: dict[str, bytes]) -> str:
        file_system = fsspec.filesystem("memory")
        if file_system.exists("/folder"):
            file_system.rm("/folder", recursive=True)
        for name, content in files.items():
            file_system.pipe_file(f"/folder/{name}", content)
        return "memory://folder"
