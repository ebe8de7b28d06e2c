"""The parent's side of the fork servers: start one, have it fork, end what it forked."""

import atexit
import json
import os
import socket
import struct
import subprocess
import sys
import threading
from pathlib import Path

from evaluation.errors import EvaluationError

PACKAGES = Path(__file__).resolve().parents[2]
BOOT = (
    "import sys; sys.path.remove(''); sys.path.append(sys.argv[1]); "
    "from evaluation.sandbox.server import main; sys.path.remove(sys.argv[1]); "
    "main(sys.argv[2], int(sys.argv[3]))"
)
# Like -I, but for one variable that -I would hide: a fixed hash seed keeps verdicts repeatable.
# -S: the standard library alone; -B: no .pyc.
COMMAND = (sys.executable, "-s", "-S", "-B", "-c", BOOT, str(PACKAGES))
ENVIRONMENT = {"PYTHONHASHSEED": "0", "PYTHONUTF8": "1"}
STARTUP_SECONDS = 60.0
REQUEST = struct.Struct("=QQ")
STATUS = struct.Struct("=i")


class ForkServer:
    """A running server; it and all it forked end when this is closed or its process ends."""

    def __init__(self, role: str):
        if not hasattr(os, "fork"):
            raise EvaluationError(
                "programs are run in forked processes, which this system does not have. "
                "Use Linux or macOS (on Windows: WSL)"
            )
        self.process = os.getpid()
        self._control, theirs = socket.socketpair()
        with theirs:
            self._server = subprocess.Popen(
                (*COMMAND, role, str(theirs.fileno())),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                cwd="/",
                env=ENVIRONMENT,
                pass_fds=(theirs.fileno(),),
                start_new_session=True,
            )
        self.pid = self._server.pid
        self.layers = self._await_layers()

    def _await_layers(self) -> list[str]:
        self._control.settimeout(STARTUP_SECONDS)
        try:
            line = self._control.makefile("rb").readline()
        except OSError:
            line = b""
        assert self._server.stderr is not None
        with self._server.stderr as errors:
            if line:
                return json.loads(line)
            self.close()
            reason = errors.read().decode("utf-8", "replace").strip()
            raise EvaluationError(
                f"the sandbox's interpreter {sys.executable} did not start: "
                f"{reason.splitlines()[-1] if reason else 'it said nothing'}. "
                "It needs Python's standard library and leave to fork; mend that and run again"
            )

    def fork(self, memory_bytes: int, cpu_seconds: int, channels: list[socket.socket]) -> "Forked":
        """A new process that has these channels.

        Raises: EvaluationError when the server is gone.
        """
        lifeline, theirs = socket.socketpair()
        with theirs:
            request = REQUEST.pack(memory_bytes, cpu_seconds)
            descriptors = [theirs.fileno(), *(channel.fileno() for channel in channels)]
            try:
                socket.send_fds(self._control, [request], descriptors)
            except OSError as error:
                lifeline.close()
                raise EvaluationError(
                    f"the sandbox's fork server is gone ({error}): the system may have run out "
                    "of memory. Use fewer workers, and run again"
                ) from error
        return Forked(lifeline)

    def close(self) -> None:
        """End the server and everything it has forked; returns when they are gone."""
        self._control.close()
        try:
            self._server.wait(10)
        except subprocess.TimeoutExpired:
            self._server.kill()
            self._server.wait()


class Forked:
    """A process of the server: killed when this is closed."""

    def __init__(self, lifeline: socket.socket):
        self._lifeline = lifeline

    def __enter__(self) -> "Forked":
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def wait(self, seconds: float) -> int | None:
        """Its exit code, negative for a signal, if it ends within that time."""
        self._lifeline.settimeout(max(seconds, 0.001))
        try:
            data = self._lifeline.recv(STATUS.size)
        except TimeoutError:
            return None
        except OSError:
            return -9
        return os.waitstatus_to_exitcode(STATUS.unpack(data)[0]) if data else -9

    def kill(self) -> None:
        """Have it killed, without waiting for that."""
        try:
            self._lifeline.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # the server has closed its end: the process is gone

    def end(self) -> None:
        """Kill it; returns when it has ended."""
        self.kill()
        self.wait(10)
        self._lifeline.close()


_servers: dict[str, ForkServer] = {}
_starting = threading.Lock()


def server(role: str) -> ForkServer:
    """The running server of that role, started now if this process has none."""
    with _starting:
        found = _servers.get(role)
        if found is None or found.process != os.getpid():
            found = _servers[role] = ForkServer(role)
        return found


@atexit.register
def stop_servers() -> None:
    """End the servers of this process; the next check starts new ones."""
    with _starting:
        while _servers:
            _, found = _servers.popitem()
            if found.process == os.getpid():
                found.close()
