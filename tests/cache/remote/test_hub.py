"""The hub's part of push and pull against a fake of the API; no hub was ever asked."""

from pathlib import Path

import fsspec
import pytest

from cache.errors import CacheError
from cache.remote import errors as remote_errors
from cache.remote import hub as remote_hub
from cache.remote.hub import HubRemote
from cache.remote.pull import pull
from cache.remote.push import JOURNAL_NAME, push
from cache.storage.manifest import MANIFEST_NAME, Manifest
from cache.tools.verify import verify_cache

URL = "hf://datasets/org/name"


class FakeApi:
    """A repository in memory that takes commits as `HfApi.create_commit` does."""

    def __init__(self, fs):
        self.fs = fs
        self.repos: list[dict] = []
        self.commits: list[dict] = []
        self.fail_at: int | None = None
        self.error: Exception = ConnectionError("reset by peer")

    def create_repo(self, repo_id, *, repo_type, private, exist_ok):
        self.repos.append({"id": repo_id, "type": repo_type, "private": private})
        assert exist_ok

    def create_commit(
        self, repo_id, operations, *, commit_message, repo_type, revision, num_threads
    ):
        if self.fail_at is not None and len(self.commits) >= self.fail_at:
            raise self.error
        assert commit_message and repo_type == "dataset" and num_threads >= 1
        added, deleted = {}, []
        for operation in operations:
            path = f"/datasets/{repo_id}/{operation.path_in_repo}"
            if hasattr(operation, "path_or_fileobj"):
                with operation.as_file() as file:
                    added[operation.path_in_repo] = file.read()
                self.fs.pipe_file(path, added[operation.path_in_repo])
            else:
                deleted.append(operation.path_in_repo)
                self.fs.rm_file(path)
        self.commits.append({"added": added, "deleted": deleted, "revision": revision})


@pytest.fixture
def hub(monkeypatch):
    fs = fsspec.filesystem("memory", skip_instance_cache=True)
    fs.store.clear()
    fs.pseudo_dirs[:] = [""]
    api = FakeApi(fs)

    def open_remote(url: str) -> HubRemote:
        remote = HubRemote(url, api=api, fs=fs)
        remote.root = "/" + remote.root  # as the memory filesystem spells it
        return remote

    for module in ("cache.remote.pull", "cache.remote.push"):
        monkeypatch.setattr(f"{module}.open_remote", open_remote)
    monkeypatch.setattr(remote_errors, "WAITS", ())
    yield api
    fs.store.clear()


def test_a_push_makes_few_commits_with_the_manifest_in_the_last_ones(
    tiny_cache, hub, monkeypatch, tmp_path
):
    monkeypatch.setattr(remote_hub, "COMMIT_FILES", 3)
    files = [file.path for file in Manifest.read(tiny_cache).files]
    push(tiny_cache, URL, card="# card\n")
    assert hub.repos[0] == {"id": "org/name", "type": "dataset", "private": True}
    commits = [list(commit["added"]) or commit["deleted"] for commit in hub.commits]
    assert commits[:2] == [[JOURNAL_NAME], ["plan.json"]]
    assert commits[-3:] == [["README.md"], [MANIFEST_NAME], [JOURNAL_NAME]]
    shards = commits[2:-3]
    assert max(map(len, shards)) == 3 and sorted(sum(shards, [])) == sorted(files)
    pull(URL, tmp_path / "c")
    assert verify_cache(tmp_path / "c") == []
    num_commits = len(hub.commits)
    assert push(tiny_cache, URL, card="# card\n").num_files == 0
    assert len(hub.commits) == num_commits


def test_a_push_that_failed_between_commits_goes_on(tiny_cache, hub, monkeypatch, tmp_path):
    monkeypatch.setattr(remote_hub, "COMMIT_FILES", 2)
    hub.fail_at = 4  # the journal, the plan and two commits of files went in
    with pytest.raises(CacheError, match="reset by peer.\nWhat has moved is kept"):
        push(tiny_cache, URL, card="# card\n")
    hub.fail_at = None
    assert push(tiny_cache, URL, card="# card\n").num_kept == 4
    pull(URL, tmp_path / "c")
    assert verify_cache(tmp_path / "c") == []


def test_a_folder_and_a_revision_of_a_repository_are_kept_apart(tmp_path, hub):
    remote = HubRemote("hf://datasets/org/name@draft/a/b", api=hub, fs=hub.fs)
    remote.write({"x": b"1"})
    assert hub.commits == [{"added": {"a/b/x": b"1"}, "deleted": [], "revision": "draft"}]
    assert remote.root == "datasets/org/name@draft/a/b"
    (tmp_path / "y").write_bytes(b"22")
    moved: list[int] = []
    remote.put([("y", Path(tmp_path / "y"))], jobs=2, on_bytes=moved.append)
    assert moved == [2] and hub.commits[1]["added"] == {"a/b/y": b"22"}


def test_a_refused_token_is_a_sentence(tiny_cache, hub):
    class Refused(Exception):
        response = type("Response", (), {"status_code": 401})()

    hub.fail_at, hub.error = 0, Refused("invalid token")
    with pytest.raises(CacheError, match="refuses access, or no credentials were found: invalid"):
        push(tiny_cache, URL, card="# card\n")
