"""A folder over ssh as a remote: a connection for each thread, only to hosts that are known."""

import threading
from pathlib import Path
from typing import Any

import paramiko
from fsspec.implementations.sftp import SFTPFileSystem
from fsspec.utils import infer_storage_options

from cache.errors import CacheError
from cache.remote.remote import Remote

KNOWN_HOSTS = ("~/.ssh/known_hosts", "/etc/ssh/ssh_known_hosts")


class SshRemote(Remote):
    """Every thread has a connection of its own: threads that share one wait for ever."""

    def __init__(self, url: str):
        """Open `ssh://[user@]host[:port]/folder`; nothing is asked of it yet.

        Raises:
            CacheError: the URL is not of that form.
        """
        self._options = infer_storage_options(url)
        self._options.pop("protocol")
        path = self._options.pop("path").rstrip("/")
        if not (path and self._options.get("host")):
            raise CacheError(f"{url}: a cache over ssh is at ssh://[USER@]HOST[:PORT]/FOLDER.")
        self._own = threading.local()
        super().__init__(url, None, path)

    @property
    def fs(self) -> Any:
        """The thread's connection, made anew where it was lost."""
        found = getattr(self._own, "fs", None)
        transport = found and found.client.get_transport()
        if not transport or not transport.is_active():
            found = self._own.fs = self._connected()
        return found

    def _connected(self) -> Any:
        try:
            return SFTPFileSystem(
                skip_instance_cache=True, host_key_policy=_OnlyKnown(), **self._options
            )
        except paramiko.SSHException as error:
            if "No authentication methods" in str(error):  # else it is the network
                raise paramiko.AuthenticationException(str(error)) from error
            raise


class _OnlyKnown(paramiko.MissingHostKeyPolicy):
    """Takes the keys that ssh knows, and no others."""

    def missing_host_key(self, client: Any, hostname: str, key: Any) -> None:
        """Raise CacheError unless a file of known hosts has this key."""
        known = paramiko.HostKeys()
        for path in (Path(name).expanduser() for name in KNOWN_HOSTS):
            if path.is_file():
                known.load(str(path))
        if not known.check(hostname, key):
            there = "another key" if known.lookup(hostname) else "no key"
            raise CacheError(
                f"{hostname} shows the key {key.fingerprint}, and {KNOWN_HOSTS[0]} has {there} of "
                "it.\nIf it is the right one, connect once with ssh, which asks and keeps it."
            )
