"""Stores for the tests of remote sources: a web server that does harm, and the hub's endpoints."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import socket
import struct
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

import pyarrow as pa
import pyarrow.parquet as pq

from streamer.sources.remote import Patience
from streamer.sources.shelf import Shelf
from streamer.sources.spec import SourceSpec

COMMITS = ("a" * 40, "b" * 40)
PATIENCE = Patience(deadline_seconds=60.0, stall_seconds=1.0, longest_pause_seconds=0.5)
LITTLE_PATIENCE = Patience(deadline_seconds=1.5, stall_seconds=0.5, longest_pause_seconds=0.1)
SECRET = "s3cr3t"
BUCKET = "corpus"


def read_all(shelf: Shelf, address: str, **options: str) -> list[str]:
    spec = SourceSpec(address, **options)
    shards = shelf.list_source(spec).shards
    return [text for shard in shards for text in shelf.read_shard(shard, spec)]


def as_parquet(documents: list[str], rows: int, **more: Any) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.table({"text": documents} | more), sink, row_group_size=rows)
    return sink.getvalue()


def as_jsonl(documents: list[str]) -> bytes:
    return "".join(json.dumps({"text": text}) + "\n" for text in documents).encode()


class FileServer:
    """Serves `files` by path with ranges and ETags; each request takes one of `faults`, if any.

    A fault is a status ("429", "503 2" with Retry-After), "stall", "cut" or "reset" after half of
    the body, "drip 2" (the body in two seconds), "silent" (no answer at all), "whole" (all of the
    file with status 200), or "" for none.
    """

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.faults: list[str] = []
        self.has_ranges = True
        self.tells = "etag"  # or "date", or ""
        self.dates: dict[str, str] = {}
        self.requests: list[tuple[str, str]] = []
        self.headers: list[dict[str, str]] = []
        self.num_bytes = 0
        self.commit = COMMITS[0]
        self.stopping = threading.Event()
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
        self.server.daemon_threads = True
        self.server.owner = self  # type: ignore[attr-defined]
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True)
        self.thread.start()

    def close(self) -> None:
        self.stopping.set()
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()

    def ranges(self, name: str) -> list[str]:
        """The ranges that were asked for of files whose path ends so."""
        return [span for path, span in self.requests if path.endswith(name)]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        pass

    @property
    def owner(self) -> FileServer:
        return self.server.owner  # type: ignore[attr-defined, no-any-return]

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.owner.requests.append((path, self.headers.get("Range", "")))
        self.owner.headers.append(dict(self.headers))
        fault = self.owner.faults.pop(0) if self.owner.faults else ""
        if fault == "silent":
            self.owner.stopping.wait(20)
            self.close_connection = True
        elif fault[:1].isdigit():
            status, _, seconds = fault.partition(" ")
            self.answer(int(status), b"no", {"Retry-After": seconds} if seconds else {})
        elif path.startswith("/api/"):
            self.hub_api(path)
        elif "/resolve/" in path:
            repository, _, rest = path.partition("/resolve/")
            commit, _, name = rest.partition("/")
            port = self.owner.server.server_port
            target = f"http://localhost:{port}/cdn{repository}/{commit}/{name}?Signature=secret"
            self.answer(302, b"", {"Location": target})
        elif path in self.owner.files:
            self.send_file(path, fault)
        else:
            self.answer(404, b"none")

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.answer(404, b"none")

    def do_HEAD(self) -> None:
        self.answer(405, b"")

    def answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def send_file(self, path: str, fault: str) -> None:
        data = self.owner.files[path]
        headers = {}
        if self.owner.tells == "etag":
            headers["ETag"] = f'"{hashlib.md5(data).hexdigest()}"'
            if self.headers.get("If-Match", headers["ETag"]) != headers["ETag"]:
                return self.answer(412, b"")
        elif self.owner.tells == "date":
            headers["Last-Modified"] = self.owner.dates.get(path, "Tue, 03 Nov 2026 10:00:00 GMT")
        span = self.headers.get("Range")
        if span and self.owner.has_ranges and fault != "whole":
            first, _, last = span.removeprefix("bytes=").partition("-")
            start, stop = int(first), min(int(last) + 1, len(data))
            if start >= len(data):
                return self.answer(416, b"", {"Content-Range": f"bytes */{len(data)}", **headers})
            headers["Content-Range"] = f"bytes {start}-{stop - 1}/{len(data)}"
            body, status = data[start:stop], 206
        else:
            body, status = data, 200
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.send_body(body, fault)
        return None

    def send_body(self, body: bytes, fault: str) -> None:
        with contextlib.suppress(OSError):
            if fault.startswith("drip "):
                for at in range(0, len(body), size := len(body) // 8 + 1):
                    self.wfile.write(body[at : at + size])
                    self.owner.stopping.wait(float(fault[5:]) / 8)
                return
            if fault not in ("stall", "cut", "reset"):
                self.wfile.write(body)
                self.owner.num_bytes += len(body)
                return
            self.wfile.write(body[: len(body) // 2])
            self.owner.num_bytes += len(body) // 2
            self.wfile.flush()
            if fault == "stall":
                self.owner.stopping.wait(20)
            elif fault == "reset":
                time.sleep(0.05)
                linger = struct.pack("ii", 1, 0)
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                self.connection.close()
        self.close_connection = True

    def hub_api(self, path: str) -> None:
        """The commit of a data set, and its files below a folder."""
        parts = path.removeprefix("/api/datasets/").split("/")
        repository = "/".join(parts[:2])
        rest = parts[2:]
        if rest[:1] in ([], ["revision"]):
            revision = rest[1] if rest else "main"
            commit = self.owner.commit if revision == "main" else revision
            if commit not in COMMITS:
                return self.answer(404, b"", {"X-Error-Code": "RevisionNotFound"})
            return self.as_json({"_id": "1", "id": repository, "sha": commit, "siblings": []})
        if rest[0] != "tree":
            return self.answer(404, b"none")
        commit, folder = rest[1], "/".join(rest[2:])
        root = f"/cdn/datasets/{repository}/{commit}/"
        recursive = "recursive=true" in self.path.lower()
        return self.as_json(self.tree(root, f"{folder}/" if folder else "", recursive))

    def tree(self, root: str, folder: str, recursive: bool) -> object:
        entries: dict[str, dict[str, object]] = {}
        for name, data in self.owner.files.items():
            path = name.removeprefix(root)
            if not name.startswith(root) or not path.startswith(folder):
                continue
            below = path[len(folder) :].split("/")
            for depth in range(1, len(below) if recursive else min(2, len(below))):
                parent = folder + "/".join(below[:depth])
                entries[parent] = {"type": "directory", "oid": "0" * 40, "size": 0, "path": parent}
            if len(below) == 1 or recursive:
                digest = hashlib.sha256(data).hexdigest()
                entries[path] = {
                    "type": "file",
                    "oid": digest[:40],
                    "size": len(data),
                    "path": path,
                    "lfs": {"oid": digest, "size": len(data), "pointerSize": 130},
                }
        return list(entries.values())

    def as_json(self, value: object) -> None:
        self.answer(200, json.dumps(value).encode(), {"Content-Type": "application/json"})
