"""Small objects that are cut short, too large or others: each a fault of its own, and never a reason to remove."""

from __future__ import annotations

from pathlib import Path

import pytest

from tailrace.errors import RegistryError
from tailrace.release.registry.garbage import Retention, collect, delete
from tailrace.release.registry.notes import remove_alias, remove_tag, set_alias
from tailrace.release.registry.registering import COLLECTION, register
from tailrace.release.registry.registry import Registry, file_key, open_registry, version_key

EVERY_PLACE = pytest.mark.parametrize("url", ["folder", "memory", "s3"], indirect=True)
BAD = pytest.mark.parametrize("bad", [b"", b"\xff", b"{}", bytes(2 << 20)], ids=["empty", "binary", "other", "large"])


@pytest.fixture
def registry(tmp_path: Path, model: Path) -> Registry:
    """Return a registry with two versions, and a file that nobody needs."""
    registry = open_registry(str(tmp_path / "registry"), create=True)
    for _ in range(2):
        register(registry, model, "fraud")
    registry.storage.write(file_key("0" * 64), b"garbage")
    return registry


@EVERY_PLACE
def test_record_that_is_too_large_is_listed_as_a_fault(url: str, model: Path) -> None:
    """It spoils neither the list nor the collection of what is no file's, and can be deleted."""
    registry = open_registry(url, create=True)
    for _ in range(2):
        register(registry, model, "fraud")
    registry.storage.write(version_key("fraud", 1), bytes(2 << 20))
    assert [(each.number, each.fault) for each in registry.versions("fraud")] == [
        (2, ""),
        (1, "it was cut short or altered: it has over 1048576 bytes"),
    ]
    assert "no file is removed: fraud@1" in collect(registry).warnings[0]
    delete(registry, "fraud", 1)
    assert register(registry, model, "fraud").record.number == 3


@BAD
def test_alias_that_cannot_be_read_holds_every_version(registry: Registry, bad: bytes) -> None:
    """Nobody knows which version it names; it is told, the others can be read, and it is set again or removed."""
    set_alias(registry, "staging", "fraud", 2)
    registry.storage.write("models/fraud/aliases/production.json", bad)
    assert registry.aliases("fraud")["staging"].number == 2
    assert list(registry.aliases("fraud").faults) == ["production"]
    collected = collect(registry, Retention(keep=0))
    assert (collected.versions, collected.files) == ([], 1)
    assert collected.kept["fraud@1"] == ["the alias 'production', which cannot be read"]
    assert "no version of 'fraud' goes: fraud@production" in collected.warnings[0]
    set_alias(registry, "production", "fraud", 2)
    registry.storage.write("models/fraud/aliases/production.json", bad)
    assert remove_alias(registry, "production", "fraud") is None
    assert collect(registry, Retention(keep=0)).versions == ["fraud@1"]


@BAD
def test_hold_that_cannot_be_read_holds(registry: Registry, bad: bytes) -> None:
    """It holds its version, and is told by its key; the other version goes."""
    registry.storage.write("models/fraud/holds/1/log.json", bad)
    registry.storage.write("models/fraud/holds/1/b.json", b'{"holder": "", "why": "", "until": "never"}')
    collected = collect(registry, Retention(keep=0))
    assert (collected.versions, collected.files) == (["fraud@2"], 1)
    assert "fraud@1 stays: models/fraud/holds/1/log.json: " in "".join(collected.warnings)
    assert "'never' is no time" in "".join(collected.warnings)
    with pytest.raises(RegistryError, match="held by the hold 'log', which cannot be read; the hold 'b'"):
        delete(registry, "fraud", 1)


@BAD
def test_tag_that_cannot_be_read_is_told_and_removed(registry: Registry, bad: bytes) -> None:
    """A tag keeps nothing."""
    registry.storage.write("models/fraud/tags/1/ticket.json", bad)
    assert list(registry.tags("fraud", 1).faults) == ["ticket"]
    remove_tag(registry, "fraud", 1, "ticket")
    assert registry.tags("fraud", 1).faults == {}


@BAD
def test_draft_that_cannot_be_read_keeps_every_file(registry: Registry, bad: bytes) -> None:
    """Nobody knows which files its writer needs, until that is dead."""
    registry.storage.write("drafts/another-machine-1-1.ab.json", bad)
    collected = collect(registry)
    assert (collected.files, collected.drafts) == (0, 0)
    assert "no file is removed: drafts/another-machine-1-1.ab.json" in collected.warnings[0]


@BAD
def test_collection_that_cannot_be_read_is_somebodys(registry: Registry, bad: bytes) -> None:
    """Another collects, of whom nobody knows whether it lives; that is over like any other."""
    registry.storage.write(COLLECTION, bad)
    with pytest.raises(RegistryError, match="another collects"):
        collect(registry)


def test_number_that_a_bad_object_has_is_passed_over(registry: Registry, model: Path) -> None:
    """A writer that finds the number taken takes the next, whatever is there."""
    create = registry.storage.create

    def taken(key: str, content: bytes) -> None:
        if key == version_key("fraud", 3):
            registry.storage.write(key, bytes(2 << 20))
        create(key, content)

    registry.storage.create = taken  # type: ignore[method-assign]
    assert register(registry, model, "fraud").record.number == 4
