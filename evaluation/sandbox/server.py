"""A fork server: run by sandbox_processes.py in a fresh interpreter.

It is executed, not forked, so nothing of the parent's memory is in it, and it is only ever sent
limits and descriptors: programs and tests pass it by. For each request it forks a process that
is a `program` (confined) or a `judge` (trusted), and holds the other end of its lifeline: when
the parent closes that or dies, the process is killed; when the process has ended, its wait
status arrives there.
"""

import gc
import io
import json
import os
import random
import select
import signal
import socket
import struct
import sys
from importlib import import_module

from evaluation.sandbox.confine import ProgramConfinement, confine_server
from evaluation.sandbox.confine_spaces import end_with_parent
from evaluation.sandbox.judge import judge
from evaluation.sandbox.program import serve_program

REQUEST = struct.Struct("=QQ")  # memory in bytes, processor time in seconds
NO_FORK = 71 << 8  # wait status that stands for a process that could not be made
MAX_DESCRIPTORS = 1024
# What programs and tests of the benchmarks import, so that no fork has to.
PREIMPORTED = (
    ("array", "bisect", "cmath", "collections", "copy", "dataclasses", "datetime", "decimal")
    + ("enum", "fractions", "functools", "hashlib", "heapq", "inspect", "itertools", "math")
    + ("numbers", "operator", "queue", "re", "statistics", "string", "textwrap", "time")
    + ("traceback", "typing", "unicodedata", "abc", "contextlib", "io", "types", "resource")
)


def main(role: str, number: int) -> None:
    """Prepare, say which layers hold, then serve until the parent is gone."""
    control = socket.socket(fileno=os.dup(number))  # low, so that every fork closes it
    os.close(number)
    sys.argv[:] = [""]
    sys.path[:] = map(os.path.realpath, sys.path)
    for name in [name for name in sys.modules if name.partition(".")[0] == "evaluation"]:
        del sys.modules[name]
    confinement, layers = None, []
    if role == "program":
        layers = confine_server()
        confinement = ProgramConfinement()
        if "pid" in layers:
            end_with_parent()  # once more: the kernel forgets it when the user changes
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # half a surrogate pair is no error
    for name in PREIMPORTED:
        import_module(name)
    random.seed(0)
    gc.collect()
    gc.freeze()
    control.sendall(json.dumps(layers).encode() + b"\n")
    os.dup2(1, 2)  # the parent read errors of the start; what programs print goes nowhere
    _Server(control, confinement, layers).run()


class _Server:
    def __init__(
        self,
        control: socket.socket,
        confinement: ProgramConfinement | None,
        layers: list[str],
    ):
        self._control = control
        self._confinement = confinement
        self._layers = layers
        self._lifelines: dict[int, socket.socket] = {}  # by process
        self._wake, wake = os.pipe()
        os.set_blocking(self._wake, False)
        os.set_blocking(wake, False)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        self._poll = select.poll()
        self._poll.register(control, select.POLLIN)
        self._poll.register(self._wake, select.POLLIN)

    def run(self) -> None:
        """Serve until the parent closes its end; then end everything."""
        while True:
            for descriptor, _ in self._poll.poll():
                if descriptor == self._wake:
                    self._reap()
                elif descriptor == self._control.fileno():
                    self._accept()
                else:
                    self._kill(descriptor)

    def _accept(self) -> None:
        request, descriptors, _, _ = socket.recv_fds(self._control, REQUEST.size, 4)
        if len(request) < REQUEST.size:
            for running in self._lifelines:
                os.kill(running, signal.SIGKILL)
            os._exit(0)
        lifeline = socket.socket(fileno=descriptors[0])
        process = self._fork(REQUEST.unpack(request), descriptors[1:])
        for channel in descriptors[1:]:
            os.close(channel)
        if process is None:
            _say_status(lifeline, NO_FORK)
        else:
            self._lifelines[process] = lifeline
            self._poll.register(lifeline, select.POLLIN)

    def _kill(self, descriptor: int) -> None:
        for process, lifeline in self._lifelines.items():
            if lifeline.fileno() == descriptor:
                self._poll.unregister(lifeline)
                os.kill(process, signal.SIGKILL)
                return

    def _reap(self) -> None:
        while _has_bytes(self._wake):
            pass
        while self._lifelines:
            process, status = os.waitpid(-1, os.WNOHANG)
            if process == 0:
                return
            lifeline = self._lifelines.pop(process, None)
            if lifeline is None:
                continue
            try:
                self._poll.unregister(lifeline)
            except KeyError:
                pass  # killed by us
            _say_status(lifeline, status)

    def _fork(self, limits: tuple[int, int], channels: list[int]) -> int | None:
        try:
            process = os.fork()
        except OSError:
            return None
        if process == 0:
            try:
                self._serve(limits, channels)
            finally:
                os._exit(70)  # only an error of our own leads here
        return process

    def _serve(self, limits: tuple[int, int], channels: list[int]) -> None:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        end_with_parent()
        if self._confinement is None:
            _close_all_but(channels)
            judge(*channels)
        else:
            _close_all_but([*channels, *self._confinement.descriptors])
            serve_program(channels[0], self._layers + self._confinement.confine(*limits))


def _close_all_but(kept: list[int]) -> None:
    first = 3
    for descriptor in sorted(kept):
        os.closerange(first, descriptor)
        first = descriptor + 1
    os.closerange(first, MAX_DESCRIPTORS)


def _has_bytes(descriptor: int) -> bool:
    try:
        return bool(os.read(descriptor, 4096))
    except BlockingIOError:
        return False


def _say_status(lifeline: socket.socket, status: int) -> None:
    try:
        lifeline.sendall(struct.pack("=i", status))
    except OSError:
        pass  # nobody waits for it
    lifeline.close()
