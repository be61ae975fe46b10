"""A registry in S3, and one of fsspec's: one version's whole life. What else they promise is among the slow tests."""

from __future__ import annotations

import uuid
from pathlib import Path

import pytest

from tailrace.errors import RegistryError
from tailrace.release.registry.fetching import fetch_directory
from tailrace.release.registry.garbage import collect, delete
from tailrace.release.registry.notes import remove_alias, set_alias
from tailrace.release.registry.reference import Reference
from tailrace.release.registry.registering import register
from tailrace.release.registry.registry import open_registry


def live(url: str, model: Path, out: Path) -> None:
    """Register a version, name it, fetch it, and have it collected."""
    (model / "words.bin").write_bytes(bytes(range(256)) * 10_000)  # several parts
    registry = open_registry(url, create=True)
    seen: list[int] = []
    record = register(registry, model, "fraud", on_progress=lambda file, done, whole: seen.append(done)).record
    assert seen[-1] == record.size_bytes
    set_alias(registry, "production", "fraud", 1)
    found = open_registry(url).resolve(Reference.parse("fraud@production"))
    assert found.record == record
    fetch_directory(registry, found.record, out)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == {
        path.name: path.read_bytes() for path in model.iterdir()
    }
    with pytest.raises(RegistryError, match="held by the alias"):
        delete(registry, "fraud", 1)
    remove_alias(registry, "production", "fraud")
    delete(registry, "fraud", 1)
    assert collect(registry).files == len(record.files)
    assert [each.key for each in registry.storage.find("")] == ["models/fraud/deleted/1.json", "registry.json"]


def test_version_lives_in_s3(s3_url: str, model: Path, tmp_path: Path) -> None:
    """Against moto's server: conditional puts, progress, prefixes, deletion."""
    live(s3_url, model, tmp_path / "out")


def test_version_lives_in_a_file_system_of_fsspec(model: Path, tmp_path: Path) -> None:
    """In fsspec's memory: what is true of it is true of any that creates conditionally."""
    pytest.importorskip("fsspec")
    live(f"memory://{uuid.uuid4().hex}", model, tmp_path / "out")
