"""A real S3 server on loopback, and a line to it that can be cut."""

import os
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

CARD = "# card\n"


BUCKET = "bucket"


class Line:
    """A TCP proxy that drops every connection once `budget` bytes went through it."""

    def __init__(self, port: int):
        self.target = port
        self.budget: float = float("inf")
        self.num_bytes = 0
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = self._server.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._server.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._server.accept()
            except OSError:
                return
            if self.num_bytes >= self.budget:
                client.close()
                continue
            server = socket.create_connection(("127.0.0.1", self.target))
            with self._lock:
                self._open |= {client, server}
            for pair in ((client, server), (server, client)):
                threading.Thread(target=self._pump, args=pair, daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while block := source.recv(1 << 14):
                with self._lock:
                    self.num_bytes += len(block)
                    cut = self.num_bytes >= self.budget
                if cut:
                    break
                sink.sendall(block)
        with self._lock:
            gone = set(self._open) if self.num_bytes >= self.budget else {source, sink}
            self._open -= gone
        for connection in gone:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            connection.close()

    def cut_after(self, num_bytes: int) -> None:
        """Let so many more bytes through, then nothing."""
        self.budget = self.num_bytes + num_bytes

    def mend(self) -> None:
        """Let everything through again."""
        self.budget = float("inf")


@contextmanager
def s3_server() -> Iterator[int]:
    """Port of a moto server in a process of its own."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"},
    )
    try:
        url = f"http://127.0.0.1:{port}/"
        for _ in range(600):
            with suppress(OSError):
                urllib.request.urlopen(url, timeout=5).close()
                break
            assert process.poll() is None, "the server ended"
            time.sleep(0.1)
        urllib.request.urlopen(urllib.request.Request(url + BUCKET, method="PUT")).close()
        yield port
    finally:
        process.kill()
        process.wait()


def files(directory: Path) -> dict[str, bytes]:
    return {
        path.relative_to(directory).as_posix(): path.read_bytes()
        for path in directory.rglob("*")
        if path.is_file() and path.suffix != ".lock"
    }
