"""Takes away what a generated program has no business with, in layers. Stdlib alone.

The fork server takes the first ones once (`confine_server`), every program the rest before its
first line runs (`ProgramConfinement`). Which of them hold is part of every result's signature:

- `user`, `pid`, `net`, `ipc`: namespaces of its own;
- `mount`: a read-only root that holds Python's standard library and shared libraries alone;
- `uid`: not root; `nocaps`: root in name, without one of its capabilities;
- `landlock<version>`: no file but those may be read, none written;
- `seccomp`: no socket, process, thread, signal, ptrace, or change to a file;
- `audit`: in the place of a missing `seccomp`, a hook that refuses the same from Python alone;
- `rlimits`: memory, processor time, open files, no core dump.

The full level holds every guarantee by the kernel: `seccomp` (network, processes, signals,
writing), `mount` or `landlock` (reading), `uid` or `nocaps`, and `rlimits`. Namespaces come on
top where they are permitted: most containers forbid them. Tests, HOME, installed packages and
the host's files are out of a program's reach with `mount` (they are not there) as with
`landlock` (they do not open); without both it reads what its user may read. The environment
is empty at every level, and tests are in another process.
"""

import os
import sys

from evaluation.sandbox.confine_calls import build_filter, install_filter
from evaluation.sandbox.confine_files import create_ruleset, landlock_version, restrict
from evaluation.sandbox.confine_spaces import (
    drop_privileges,
    enter_namespaces,
    enter_small_root,
)

WRITING_FLAGS = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
REFUSED_EVENTS = (
    ("socket.", "os.fork", "os.exec", "os.posix_spawn", "os.spawn", "os.system", "os.kill")
    + ("os.remove", "os.rename", "os.rmdir", "os.mkdir", "os.truncate", "os.link", "os.symlink")
    + ("os.chmod", "os.chown", "os.startfile", "subprocess.", "shutil.", "ctypes.", "pty.")
)


def missing_layers(layers: str) -> list[str]:
    """What `layers`, as in `mount+uid+seccomp+rlimits`, lacks of the full level."""
    names = layers.split("+")
    reading = any(name == "mount" or name.startswith("landlock") for name in names)
    found = {
        "seccomp": "seccomp" in names,
        "landlock or a mount namespace": reading,
        "a user without privileges": "uid" in names or "nocaps" in names,
        "rlimits": "rlimits" in names,
    }
    return [name for name, held in found.items() if not held]


def confine_server() -> list[str]:
    """Leave this machine's namespaces, files and privileges for good; the layers that hold."""
    layers = enter_namespaces()
    if layers and enter_small_root():
        layers.append("mount")
    return layers


class ProgramConfinement:
    """What every program is put under; prepared once, while the server still may."""

    def __init__(self) -> None:
        self._ruleset = create_ruleset() if sys.platform == "linux" else None
        self._filter = build_filter()
        self._user = drop_privileges()

    @property
    def descriptors(self) -> list[int]:
        """What a forked process must keep open until it is confined."""
        return [] if self._ruleset is None else [self._ruleset]

    def confine(self, memory_bytes: int, cpu_seconds: int) -> list[str]:
        """Confine this process for good; the layers that hold."""
        layers = [self._user] if self._user else []
        if self._ruleset is not None:
            restrict(self._ruleset)
            os.close(self._ruleset)
            layers.append(f"landlock{landlock_version()}")
        limited = _limit(memory_bytes, cpu_seconds)
        layers.append("seccomp" if self._filter_calls() else _refuse_events())
        return [*layers, "rlimits"] if limited else layers

    def _filter_calls(self) -> bool:
        if self._filter is None:
            return False
        try:
            install_filter(self._filter)
        except OSError:
            return False
        return True


def _limit(memory_bytes: int, cpu_seconds: int) -> bool:
    import resource

    held = True
    for limit, value in (
        (resource.RLIMIT_AS, memory_bytes),
        (resource.RLIMIT_CPU, cpu_seconds),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_NOFILE, 64),
        (resource.RLIMIT_CORE, 0),
    ):
        try:
            resource.setrlimit(limit, (value, value))
        except (OSError, ValueError):
            held = False
    return held


def _refuse_events() -> str:
    import resource

    try:
        resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))
    except (OSError, ValueError):
        pass  # the audit hook still refuses to start any
    sys.addaudithook(_refuse_event)
    return "audit"


def _refuse_event(event: str, arguments: tuple) -> None:
    if event.startswith(REFUSED_EVENTS):
        raise PermissionError(1, f"{event} is not allowed here")
    if event == "open" and isinstance(arguments[2], int) and arguments[2] & WRITING_FLAGS:
        raise PermissionError(1, "writing files is not allowed here")
