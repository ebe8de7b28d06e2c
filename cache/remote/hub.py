"""A dataset repository of the Hugging Face hub as a remote: many files to a commit."""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from cache.errors import CacheError
from cache.machine.progress import OnBytes
from cache.remote.errors import attempt
from cache.remote.remote import Remote

COMMIT_FILES = 64
"""Files of a commit. A push that was stopped keeps the commits that were made."""
_URL = re.compile(r"hf://datasets/(?P<repo>[^/@]+/[^/@]+)(@(?P<revision>[^/]+))?(/(?P<path>.*))?")


class HubRemote(Remote):
    """A folder of a dataset repository: read through its filesystem, written by commits.

    The filesystem would make a commit of every file. A repository that is not there is made,
    as a private one.
    """

    def __init__(self, url: str, *, api: Any = None, fs: Any = None):
        """Open `hf://datasets/org/name[@revision][/folder]`; `api` and `fs` are the hub's own.

        Raises:
            CacheError: the URL is not of that form.
        """
        match = _URL.fullmatch(url.rstrip("/"))
        if match is None:
            raise CacheError(f"{url}: a cache on the hub is at hf://datasets/ORGANISATION/NAME.")
        from huggingface_hub import HfApi, HfFileSystem

        super().__init__(url, fs or HfFileSystem(), url.removeprefix("hf://"))
        self._api = api or HfApi()
        self._repo: str = match["repo"]
        self._revision: str | None = match["revision"]
        self._prefix = f"{match['path']}/" if match["path"] else ""

    def put(self, sources: Sequence[tuple[str, Path]], *, jobs: int, on_bytes: OnBytes) -> None:
        """Put local files in, in commits of many; the hub skips what it has by its hash."""
        for first in range(0, len(sources), COMMIT_FILES):
            part = sources[first : first + COMMIT_FILES]
            self._commit({name: str(local) for name, local in part}, (), jobs=jobs)
            on_bytes(sum(local.stat().st_size for _, local in part))

    def write(self, contents: dict[str, bytes]) -> None:
        """Put small files in, in one commit."""
        self._commit(contents, ())

    def delete(self, names: Iterable[str]) -> None:
        """Delete files, in one commit."""
        if gone := list(names):
            self._commit({}, gone)

    def _commit(self, added: dict[str, Any], deleted: Sequence[str], jobs: int = 5) -> None:
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete

        def commit():  # operations are used up by a commit, so each try makes its own
            self._api.create_repo(self._repo, repo_type="dataset", private=True, exist_ok=True)
            operations: list[Any] = [
                *(
                    CommitOperationAdd(path_in_repo=self._prefix + name, path_or_fileobj=content)
                    for name, content in added.items()
                ),
                *(CommitOperationDelete(path_in_repo=self._prefix + name) for name in deleted),
            ]
            self._api.create_commit(
                self._repo,
                operations,
                commit_message=f"Cache: {len(added)} files put, {len(deleted)} deleted",
                repo_type="dataset",
                revision=self._revision,
                num_threads=jobs,
            )

        attempt(self.url, commit)
