"""A file that is put: where it fails, in the midst or in the end, what other versions have stays as it was."""

from __future__ import annotations

import os
from hashlib import sha256
from pathlib import Path

import pytest

from tailrace.release.registry.fetching import check_file
from tailrace.release.registry.partial import PARTIAL
from tailrace.release.registry.registering import register
from tailrace.release.registry.registry import Registry, file_key, open_registry

EVERY_PLACE = pytest.mark.parametrize("url", ["folder", "memory", "s3"], indirect=True)
CONTENT = bytes(range(256)) * 10_000
"""Several parts."""


class FailsError(Exception):
    """A writer ends in the midst."""


def stored(registry: Registry, key: str) -> bytes:
    """Return what an object has."""
    return b"".join(registry.storage.stream(key))


@EVERY_PLACE
@pytest.mark.parametrize("now", ["other bytes", "shorter", "longer", "empty"])
def test_file_that_was_altered_leaves_what_was_there(url: str, tmp_path: Path, now: str) -> None:
    """The content that comes under a key that versions have is its own, or none comes."""
    registry, path = open_registry(url, create=True), tmp_path / "model"
    key, digest = file_key(sha256(CONTENT).hexdigest()), sha256(CONTENT).hexdigest()
    path.write_bytes(CONTENT)
    told: list[int] = []
    registry.storage.upload(key, path, digest, told.append)
    assert sum(told) == len(CONTENT)
    changed = {"other bytes": CONTENT[:-1] + b"?", "shorter": CONTENT[:-1], "longer": CONTENT + b"?", "empty": b""}
    path.write_bytes(changed[now])
    with pytest.raises(OSError, match="was altered while it was read"):
        registry.storage.upload(key, path, digest, lambda count: None)
    assert stored(registry, key) == CONTENT
    assert registry.storage.find(f"{PARTIAL}/") == []


@EVERY_PLACE
def test_upload_that_fails_halfway_leaves_what_was_there(url: str, tmp_path: Path) -> None:
    """No half of a file takes the place of a whole one, and none is left beside it."""
    registry, path = open_registry(url, create=True), tmp_path / "model"
    key, digest = file_key(sha256(CONTENT).hexdigest()), sha256(CONTENT).hexdigest()
    path.write_bytes(CONTENT)
    registry.storage.upload(key, path, digest, lambda count: None)

    def fail(count: int) -> None:
        raise FailsError

    with pytest.raises((FailsError, OSError)):
        registry.storage.upload(key, path, digest, fail)
    assert stored(registry, key) == CONTENT
    assert registry.storage.find(f"{PARTIAL}/") == []


@EVERY_PLACE
def test_file_that_is_there_is_not_put_again(url: str, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second version of the same files leaves the first one's alone, and is told of as carried."""
    registry = open_registry(url, create=True)
    record = register(registry, model, "fraud").record
    monkeypatch.setattr(type(registry.storage), "upload", None)
    seen: list[int] = []
    again = register(registry, model, "fraud", on_progress=lambda file, done, whole: seen.append(done)).record
    assert (again.number, seen[-1]) == (2, again.size_bytes)
    for name, file in record.files.items():
        check_file(registry, record, name, file)


@EVERY_PLACE
def test_object_is_looked_at(url: str) -> None:
    """One look tells what a listing tells, and that there is none."""
    storage = open_registry(url, create=True).storage
    assert [storage.look("registry.json")] == storage.find("registry.json")
    for key in ("absent.json", "registry.json/x", "models"):
        with pytest.raises(FileNotFoundError):
            storage.look(key)


def test_folder_keeps_the_file_itself(model: Path, tmp_path: Path) -> None:
    """A server that has a version's file open, or linked, sees no other file in its place."""
    registry = open_registry(str(tmp_path / "registry"), create=True)
    record = register(registry, model, "fraud").record
    path = tmp_path / "registry" / file_key(record.files["model.onnx"].sha256)
    before = os.stat(path).st_ino
    register(registry, model, "fraud")
    assert os.stat(path).st_ino == before
