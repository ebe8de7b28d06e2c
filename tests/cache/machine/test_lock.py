"""One writer at a time, locks of dead processes, half-written files and their permissions."""

import errno
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from hashlib import sha256
from multiprocessing import get_context
from pathlib import Path

import pytest
from filelock import SoftFileLease, Timeout

import cache.machine.durable
import cache.machine.lock
from cache.errors import CacheError
from cache.machine.dead_lock import LockWatch
from cache.machine.durable import atomic_path, read_sealed_json, remove_partials, write_sealed_json
from cache.machine.lock import LOCK_NAME, PREPARE_LOCK, prepare_lock, worker_lock, writer_lock
from tests.support.paths import ROOT

HOLD = """
import sys, time
from pathlib import Path
from cache.machine.durable import atomic_path
from cache.machine.lock import prepare_lock, worker_lock, writer_lock
folder = Path(sys.argv[1])
with {lock}, atomic_path(folder / "file") as partial:
    partial.write_text("half")
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def holder(tmp_path):
    """Starts a process that holds a lock in `tmp_path`, and has a file half-written."""
    started = []

    def start(lock="writer_lock(folder)"):
        process = subprocess.Popen(
            [sys.executable, "-c", HOLD.format(lock=lock), str(tmp_path)],
            stdout=subprocess.PIPE, text=True, cwd=ROOT,
        )  # fmt: skip
        started.append(process)
        assert process.stdout.readline() == "held\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_a_second_writer_is_refused_by_host_and_pid(tmp_path, holder):
    process = holder()
    words = f"being written by host {socket.gethostname()}.*, pid {process.pid}"
    with pytest.raises(CacheError, match=words), writer_lock(tmp_path):
        pass
    assert (tmp_path / LOCK_NAME).exists()


def test_the_lock_of_a_killed_writer_is_taken_over(tmp_path, holder):
    process = holder()
    process.send_signal(signal.SIGKILL)
    process.wait()
    with writer_lock(tmp_path):
        remove_partials(tmp_path)
        assert [p.name for p in tmp_path.iterdir()] == [LOCK_NAME]
    assert not list(tmp_path.iterdir())


def leave_lock_of(pid: int, folder: Path, holder) -> None:
    """The lock of a killed process, as if that had had this pid."""
    process = holder()
    process.send_signal(signal.SIGKILL)
    process.wait()
    marker = folder / LOCK_NAME
    stale = marker.read_text()
    assert f"pid={process.pid}\n" in stale and "\nstart=" in stale
    marker.write_text(stale.replace(f"pid={process.pid}\n", f"pid={pid}\n"))


def test_the_lock_of_another_process_that_has_the_pid_now_is_taken_over(tmp_path, holder):
    leave_lock_of(os.getppid(), tmp_path, holder)
    with writer_lock(tmp_path):
        pass


def of_another_host(marker):
    lines = [line for line in marker.read_text().splitlines() if not line.startswith("start=")]
    host = next(line for line in lines if line.startswith("host="))
    marker.write_text("\n".join(lines).replace(host, "host=node17") + "\n")


def test_an_untouched_lock_of_another_host_is_taken_over(tmp_path, holder, monkeypatch):
    monkeypatch.setattr(cache.machine.lock, "LEASE_SECONDS", 1.5)
    holder().send_signal(signal.SIGKILL)
    marker = tmp_path / LOCK_NAME
    marker.write_text(marker.read_text().replace("duration=60.0", "duration=1.5"))
    of_another_host(marker)
    with writer_lock(tmp_path):
        assert "host=node17" not in marker.read_text()


def test_a_lock_that_another_host_touches_is_not_taken_over(tmp_path, holder):
    holder().send_signal(signal.SIGKILL)
    marker = tmp_path / LOCK_NAME
    of_another_host(marker)
    ended = threading.Event()

    def touch():
        while not ended.wait(0.2):
            os.utime(marker)

    thread = threading.Thread(target=touch)
    thread.start()
    try:
        with pytest.raises(CacheError, match="host node17, pid"), writer_lock(tmp_path):
            pass
    finally:
        ended.set()
        thread.join()


def test_writers_of_all_and_of_shares_refuse_each_other(tmp_path, holder):
    share = 'worker_lock(folder, "worker-1-of-3", same="worker-*-of-3")'
    process = holder(share)
    with worker_lock(tmp_path, "worker-0-of-3", same="worker-*-of-3"):
        pass
    refused = f"pid {process.pid} .worker-1-of-3."
    with pytest.raises(CacheError, match=refused), writer_lock(tmp_path):
        pass
    for name, same in (("worker-1-of-3", "worker-*-of-3"), ("worker-0-of-2", "worker-*-of-2")):
        with pytest.raises(CacheError, match=refused), worker_lock(tmp_path, name, same=same):
            pass
    process.kill()
    process.wait()
    with writer_lock(tmp_path):
        with pytest.raises(CacheError, match=f"pid {os.getpid()}"):
            with worker_lock(tmp_path, "worker-0-of-2", same="worker-*-of-2"):
                pass
    assert not list(tmp_path.glob("*.lock"))


def test_preparation_waits_and_names_whom_it_waits_for(tmp_path, holder, capfd):
    process = holder("prepare_lock(folder)")
    threading.Timer(1, process.kill).start()
    reaper = threading.Thread(target=process.wait)
    reaper.start()
    with prepare_lock(tmp_path):
        reaper.join()
    words = f"Waiting for host {socket.gethostname()}"
    errors = capfd.readouterr().err
    assert words in errors and f"pid {process.pid}, which prepares {tmp_path}" in errors


def test_half_written_files_of_living_processes_are_left_alone(tmp_path, holder):
    process = holder()
    with atomic_path(tmp_path / "own") as own:
        own.touch()
        (tmp_path / "x.h5.node17-12.partial").touch()
        remove_partials(tmp_path, of_the_dead=True)
        names = sorted(p.name for p in tmp_path.glob("*.partial"))
        half, other = names
        assert half.startswith(f"file.{socket.gethostname()}-")
        assert half.endswith(f"-{process.pid}.partial") and other == "x.h5.node17-12.partial"
        process.kill()
        process.wait()
        remove_partials(tmp_path, of_the_dead=True)
        assert [p.name for p in tmp_path.glob("*.partial")] == ["x.h5.node17-12.partial"]
        own.touch()
    assert (tmp_path / "own").exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_directory_that_cannot_be_written_is_named(tmp_path):
    tmp_path.chmod(0o555)
    with pytest.raises(CacheError, match="Choose another --out"), writer_lock(tmp_path):
        time.sleep(0)


def test_files_are_the_groups_where_the_umask_says_so(tmp_path):
    before = os.umask(0o002)
    try:
        with atomic_path(tmp_path / "file") as partial:
            with tempfile.NamedTemporaryFile(dir=tmp_path, delete=False) as file:
                os.replace(file.name, partial)
        with writer_lock(tmp_path):
            modes = [p.stat().st_mode & 0o777 for p in (tmp_path / "file", tmp_path / LOCK_NAME)]
    finally:
        os.umask(before)
    assert modes == [0o664, 0o664]


def test_a_lock_without_a_name_is_taken_over_by_all_who_wait(tmp_path, monkeypatch):
    """Its maker died before it wrote its name."""
    monkeypatch.setattr(cache.machine.lock, "LEASE_SECONDS", 1.5)
    for name, lock in ((LOCK_NAME, writer_lock), (PREPARE_LOCK, prepare_lock)):
        (tmp_path / name).touch()
        with lock(tmp_path):
            assert (tmp_path / name).stat().st_size > 0


def test_a_lock_without_a_name_yet_is_left_alone_whatever_its_time(tmp_path):
    """Another host's clock may be an hour late, and its maker about to write the name."""
    marker = tmp_path / LOCK_NAME
    marker.touch()
    os.utime(marker, (time.time() - 3600,) * 2)
    watch = LockWatch(SoftFileLease(marker, lease_duration=60), seconds=60)
    for _ in range(2):
        watch.remove_if_dead()
        assert marker.exists()


class NoExchange(SoftFileLease):
    """A lock on NFS, SMB or sshfs: one that is there is never exchanged for another."""

    def acquire(self, *args, **options):
        if os.path.exists(self.lock_file):
            raise Timeout(self.lock_file)
        return super().acquire(*args, **options)


@pytest.fixture
def no_exchange(monkeypatch):
    monkeypatch.setattr(cache.machine.lock, "SoftFileLease", NoExchange)


@pytest.mark.parametrize("lock", [writer_lock, prepare_lock])
def test_without_exchange_a_dead_process_of_this_host_is_followed_at_once(
    tmp_path, holder, no_exchange, lock
):
    process = holder(f"{lock.__name__}(folder)")
    process.kill()
    process.wait()
    with lock(tmp_path):
        assert f"pid={os.getpid()}\n" in next(tmp_path.glob("*.lock")).read_text()
    assert not list(tmp_path.glob("*.lock*"))


def test_without_exchange_a_later_process_with_the_same_pid_is_not_the_holder(
    tmp_path, holder, no_exchange
):
    leave_lock_of(os.getpid(), tmp_path, holder)
    with writer_lock(tmp_path):
        with pytest.raises(CacheError, match=f"pid {os.getpid()}"), writer_lock(tmp_path):
            pass


def test_without_exchange_one_at_a_time_follows_a_dead_host(tmp_path, holder, no_exchange):
    process = holder("prepare_lock(folder)")
    process.kill()
    process.wait()
    marker = tmp_path / PREPARE_LOCK
    marker.write_text(marker.read_text().replace("duration=60.0", "duration=1.5"))
    of_another_host(marker)

    def hold():
        cache.machine.lock.LEASE_SECONDS = 1.5
        with prepare_lock(tmp_path):
            (tmp_path / "inside").touch(exist_ok=False)
            time.sleep(0.05)
            (tmp_path / "inside").unlink()

    processes = [get_context("fork").Process(target=hold) for _ in range(8)]
    for each in processes:
        each.start()
    for each in processes:
        each.join()
    assert [each.exitcode for each in processes] == [0] * 8
    assert not list(tmp_path.glob("*.lock*"))


def test_without_exchange_a_process_that_died_removing_a_lock_is_followed(
    tmp_path, no_exchange, monkeypatch
):
    monkeypatch.setattr(cache.machine.lock, "LEASE_SECONDS", 1.0)
    (tmp_path / LOCK_NAME).touch()
    (tmp_path / f"{LOCK_NAME}.{sha256(b'').hexdigest()[:16]}.partial").touch()
    with writer_lock(tmp_path):
        pass
    assert not list(tmp_path.iterdir())


def test_the_pid_of_another_container_of_the_same_name_means_nothing(
    tmp_path, holder, monkeypatch, capfd
):
    """A container that is started again has the host name and the pids of the one before."""
    monkeypatch.setattr(cache.machine.lock, "LEASE_SECONDS", 2.0)
    holder()
    marker = tmp_path / LOCK_NAME
    text = marker.read_text().replace("duration=60.0", "duration=2.0")
    host = f"host={socket.gethostname()}"
    before = next(line for line in text.splitlines() if line.startswith(host))
    marker.write_text(text.replace(before, f"{host}?pidns-1"))
    with writer_lock(tmp_path):
        assert "?pidns-1\n" not in marker.read_text()
    told = capfd.readouterr().err
    assert f"written by host {socket.gethostname()}, pid" in told
    assert "of a container. Whether" in told and "shows within 2 seconds; waiting" in told


def test_a_file_that_is_being_replaced_is_read_again(tmp_path, monkeypatch):
    """sshfs has cut the first reading of a longer one to the length of the one before."""
    path = tmp_path / "manifest.json"
    write_sealed_json(path, {"documents": 55})
    whole = path.read_bytes()
    path.write_bytes(whole[:-9])
    with pytest.raises(CacheError, match="is damaged"):
        read_sealed_json(path)
    monkeypatch.setattr(
        cache.machine.durable.time, "sleep", lambda seconds: path.write_bytes(whole)
    )
    assert read_sealed_json(path) == {"documents": 55}


def test_a_lost_connection_is_told_in_a_sentence(tmp_path, monkeypatch):
    """The lock cannot be released then, nor the half-written file removed."""

    def lost(*args, **options):
        raise OSError(errno.ENOTCONN, os.strerror(errno.ENOTCONN))

    (tmp_path / "other").mkdir()
    with pytest.raises(CacheError, match="connection to its file system was lost"):
        with writer_lock(tmp_path), atomic_path(tmp_path / "file") as partial:
            partial.touch()
            monkeypatch.setattr(Path, "unlink", lost)
            monkeypatch.setattr(SoftFileLease, "release", lost)
            lost()
    with pytest.raises(CacheError, match="connection to its file system was lost"):
        with writer_lock(tmp_path / "other"):
            lost()
