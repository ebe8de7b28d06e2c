"""Push and pull against a real ssh server on loopback."""

import getpass
import shutil
import socket
import subprocess
import time
from pathlib import Path

import pytest

from cache.errors import CacheError
from cache.remote import errors as remote_errors
from cache.remote.errors import RemoteUnreachable
from cache.remote.pull import pull
from cache.remote.push import push
from cache.remote.schemes import open_remote
from cache.storage.manifest import MANIFEST_NAME, Manifest
from cache.tools.verify import verify_cache
from tests.support.remote_server import CARD, Line, files

SSHD = shutil.which("sshd", path="/usr/sbin:/usr/local/sbin")
pytest.importorskip("paramiko", reason="paramiko is not installed: pip install paramiko")
if SSHD is None:
    pytest.skip("no sshd here (Debian's package openssh-server)", allow_module_level=True)

CONFIG = """
ListenAddress 127.0.0.1:{port}
HostKey {folder}/host_key
AuthorizedKeysFile {folder}/home/.ssh/id_ed25519.pub
PidFile {folder}/pid
StrictModes no
UsePAM no
PermitRootLogin yes
Subsystem sftp internal-sftp
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """Port of a server that lets this user in, and the folder of its keys and of his home."""
    folder = tmp_path_factory.mktemp("ssh")
    (folder / "home" / ".ssh").mkdir(parents=True)
    for key in ("host_key", "home/.ssh/id_ed25519"):
        subprocess.run(
            ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / key], check=True
        )
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    (folder / "config").write_text(CONFIG.format(port=port, folder=folder))
    if getpass.getuser() == "root":
        Path("/run/sshd").mkdir(exist_ok=True)
    process = subprocess.Popen([SSHD, "-D", "-e", "-f", folder / "config"], stderr=subprocess.PIPE)
    for _ in range(200):
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            break
        except OSError:
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.05)
    yield port, folder
    process.kill()
    process.wait()


@pytest.fixture
def line(server, monkeypatch):
    port, folder = server
    home, line = folder / "home", Line(port)
    host_key = (folder / "host_key.pub").read_text()
    (home / ".ssh" / "known_hosts").write_text(f"[127.0.0.1]:{line.port} {host_key}")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    monkeypatch.setattr(remote_errors, "WAITS", (0.01,))
    yield line
    line.close()


@pytest.fixture
def url(line, tmp_path):
    return f"ssh://{getpass.getuser()}@127.0.0.1:{line.port}{tmp_path}/far/cache"


def test_a_push_and_a_pull_give_identical_bytes_and_a_second_one_moves_nothing(
    tiny_cache, url, tmp_path
):
    manifest = Manifest.read(tiny_cache)
    assert push(tiny_cache, url, card=CARD).num_bytes == manifest.num_bytes
    assert pull(url, tmp_path / "c").num_bytes == manifest.num_bytes
    assert files(tmp_path / "c") == files(tiny_cache) | {"README.md": CARD.encode()}
    assert push(tiny_cache, url, card=CARD).num_files == 0
    assert pull(url, tmp_path / "c").num_files == 0


def test_a_line_cut_in_the_middle_of_either_goes_on(tiny_cache, url, line, tmp_path):
    manifest = Manifest.read(tiny_cache)
    line.cut_after(manifest.num_bytes // 2)
    with pytest.raises(RemoteUnreachable, match="Give the same command again"):
        push(tiny_cache, url, card=CARD, jobs=1)
    line.mend()
    assert MANIFEST_NAME not in open_remote(url).sizes()
    done = push(tiny_cache, url, card=CARD)
    assert done.num_kept > 0 and 0 < done.num_bytes < manifest.num_bytes
    line.cut_after(manifest.num_bytes // 2)
    with pytest.raises(RemoteUnreachable, match="What has moved is kept"):
        pull(url, tmp_path / "c", jobs=1)
    line.mend()
    done = pull(url, tmp_path / "c")
    assert done.num_kept > 0 and 0 < done.num_bytes < manifest.num_bytes
    assert verify_cache(tmp_path / "c") == []


def test_a_refused_key_is_a_sentence(tiny_cache, url, server, tmp_path, monkeypatch):
    (tmp_path / ".ssh").mkdir()
    shutil.copy(server[1] / "home" / ".ssh" / "known_hosts", tmp_path / ".ssh")
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(CacheError, match="refuses access, or no credentials were found"):
        push(tiny_cache, url, card=CARD)


@pytest.mark.parametrize(("known", "there"), [("", "no key"), ("of another host", "another key")])
def test_a_host_that_ssh_does_not_know_is_refused(tiny_cache, url, line, server, known, there):
    hosts = server[1] / "home" / ".ssh" / "known_hosts"
    other = (server[1] / "home" / ".ssh" / "id_ed25519.pub").read_text()
    hosts.write_text(f"[127.0.0.1]:{line.port} {other}" if known else "")
    message = f"SHA256:.*known_hosts has {there} of it.\n.*connect once with ssh"
    with pytest.raises(CacheError, match=message):
        push(tiny_cache, url, card=CARD)


@pytest.mark.parametrize("wrong", ["ssh:///folder", "ssh://host", "ssh://host/"])
def test_a_url_without_a_host_or_a_folder_is_refused(wrong):
    with pytest.raises(CacheError, match="a cache over ssh is at ssh://"):
        open_remote(wrong)
