"""nginx before replicas of the streamer, which come and go: deploy/nginx.conf, on loopback."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path

from streamer_harness import REPOSITORY, ServerProcess

from streamer.protocol import PATH

NGINX = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
"""Debian's package; None where it is not installed."""
SITE = REPOSITORY / "deploy" / "nginx.conf"
START_SECONDS = 30.0
STOP_SECONDS = 10.0
MAIN = """
daemon off;
user root;
worker_processes 1;
pid nginx.pid;
events {}
http {
  client_body_temp_path body; proxy_temp_path proxy;
  fastcgi_temp_path fastcgi; uwsgi_temp_path uwsgi; scgi_temp_path scgi;
  include site.conf;
}
"""
"""What Debian's nginx.conf is for the system's nginx; here everything is in one folder."""


class Nginx:
    """An nginx that balances the servers at some ports of this machine; `close` ends it."""

    def __init__(self, folder: Path, ports: Sequence[int]) -> None:
        assert NGINX is not None
        with socket.create_server(("127.0.0.1", 0)) as unused:
            self.port: int = unused.getsockname()[1]
        self.url = f"ws://127.0.0.1:{self.port}{PATH}"
        self._folder = folder
        folder.mkdir()
        (folder / "nginx.conf").write_text(MAIN)
        self._write(ports)
        words = ["-p", f"{folder}/", "-c", "nginx.conf", "-e", "error.log"]
        self._process = subprocess.Popen([NGINX, *words], stdin=subprocess.DEVNULL)
        try:
            self._wait()
        except BaseException:
            self.close()
            raise

    def _write(self, ports: Sequence[int]) -> None:
        """The file that is deployed, with other addresses."""
        text = SITE.read_text()
        listen, (first, *others) = "listen 8000;", re.findall(r"  server replica-.*;\n", text)
        assert text.count(listen) == 1
        assert others
        servers = [re.sub(r"\S+:8000", f"127.0.0.1:{port}", first) for port in ports]
        for line in others:
            text = text.replace(line, "")
        text = text.replace(first, "".join(servers))
        text = text.replace(listen, f"listen 127.0.0.1:{self.port};")
        (self._folder / "site.conf").write_text(text)

    def _wait(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while True:
            assert self._process.poll() is None, self.log
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
            except OSError:
                assert time.monotonic() < deadline, f"nginx does not listen: {self.log}"
                time.sleep(0.02)
            else:
                return

    @property
    def log(self) -> str:
        """What it has written of errors."""
        path = self._folder / "error.log"
        return path.read_text() if path.exists() else ""

    def use(self, ports: Sequence[int]) -> None:
        """Balances other servers from now on; connections that are open stay where they are."""
        self._write(ports)
        self._process.send_signal(signal.SIGHUP)

    def close(self) -> None:
        """Ends it."""
        self._process.terminate()
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(STOP_SECONDS)


class Replicas:
    """Servers behind an nginx, each with a cache of its own; `close` ends all."""

    def __init__(self, folder: Path, start: Callable[[Path], ServerProcess], count: int) -> None:
        """`start` starts a server with a folder for its cache."""
        self._folder = folder
        self._start = start
        self._num_started = 0
        self.servers: list[ServerProcess] = []
        self.nginx: Nginx | None = None
        try:
            for _ in range(count):
                self._begin()
            self.nginx = Nginx(folder / "nginx", self.ports)
        except BaseException:
            self.close()
            raise

    @property
    def url(self) -> str:
        """Where nginx listens."""
        assert self.nginx is not None
        return self.nginx.url

    @property
    def ports(self) -> list[int]:
        """Those of the servers that live."""
        return [server.port for server in self.servers]

    def _begin(self) -> None:
        self.servers.append(self._start(self._folder / f"cache-{self._num_started}"))
        self._num_started += 1

    def add(self) -> None:
        """Starts one more, and tells nginx, also of those that are gone."""
        assert self.nginx is not None
        self._begin()
        self.nginx.use(self.ports)

    def kill(self, server: ServerProcess) -> None:
        """Ends one as a power cut does; nginx has to find out by itself."""
        server.kill()
        self.servers.remove(server)

    def busy(self) -> ServerProcess:
        """The server that has the most streams."""
        return max(self.servers, key=num_streams)

    def close(self) -> None:
        """Ends all of them and nginx."""
        if self.nginx is not None:
            self.nginx.close()
        for server in self.servers:
            server.kill()


def num_streams(server: ServerProcess) -> int:
    """Streams that a server has now."""
    url = f"http://127.0.0.1:{server.port}/status.json"
    with urllib.request.urlopen(url, timeout=START_SECONDS) as answer:
        return len(json.load(answer)["streams"])
