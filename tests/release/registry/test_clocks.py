"""Clocks that are wrong, or stand still while the machine sleeps: nothing is removed by them."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest

from tailrace.errors import RegistryError
from tailrace.release.registry.clocks import storage_time_s
from tailrace.release.registry.garbage import Retention, collect, delete
from tailrace.release.registry.notes import hold
from tailrace.release.registry.partial import PARTIAL
from tailrace.release.registry.records import DraftRecord, encode
from tailrace.release.registry.registering import COLLECTION, register
from tailrace.release.registry.registry import Registry, file_key, open_registry

DAY_S = 86_400.0
EVERY_PLACE = pytest.mark.parametrize("url", ["folder", "memory", "s3"], indirect=True)


def shifted(registry: Registry, ahead_s: float) -> Registry:
    """Return the registry as a machine has it whose clock is ahead."""
    return Registry(registry.storage, now_s=lambda: registry.now_s() + ahead_s)


@EVERY_PLACE
def test_storage_tells_its_time(url: str) -> None:
    """It is that of this machine here, and asking leaves nothing."""
    registry = open_registry(url, create=True)
    assert abs(storage_time_s(registry.storage) - registry.now_s()) < 5
    assert registry.storage.find(f"{PARTIAL}/") == []


@EVERY_PLACE
def test_clock_that_is_ahead_removes_nothing_that_is_held(url: str, model: Path) -> None:
    """Neither a hold nor a young version is over because a machine believes that it is tomorrow; it is told."""
    registry = open_registry(url, create=True)
    for _ in range(2):
        register(registry, model, "fraud")
    hold(registry, "fraud", 2, hold_id="log", holder="the log", why="kept", until_s=registry.now_s() + DAY_S / 2)
    ahead = shifted(registry, DAY_S)
    collected = collect(ahead, Retention(keep=0, older_than_s=DAY_S / 2))
    assert (collected.versions, collected.holds, collected.files) == ([], 0, 0)
    (warning,) = collected.warnings
    assert re.match(r"this machine's clock is 8640\d s ahead of the registry's", warning)
    with pytest.raises(RegistryError, match="held by the log"):
        delete(ahead, "fraud", 2)
    assert collect(registry).warnings == []


def test_clock_that_was_ahead_when_registering_keeps_nothing_for_good(model: Path, tmp_path: Path) -> None:
    """How old a version is goes by when its record was written, not by what its writer believed."""
    registry = open_registry(str(tmp_path / "registry"), create=True)
    register(shifted(registry, 300 * DAY_S), model, "fraud")
    register(shifted(registry, -300 * DAY_S), model, "fraud")
    assert collect(registry, Retention(keep=0, older_than_s=DAY_S)).versions == []
    assert collect(registry, Retention(keep=0)).versions == ["fraud@2", "fraud@1"]


def test_clock_that_is_ahead_takes_no_living_collection_over(tmp_path: Path) -> None:
    """A collection of another machine that began just now goes on alone."""
    registry = open_registry(str(tmp_path / "registry"), create=True)
    registry.storage.write(COLLECTION, encode(DraftRecord("another-machine-1-1", "", ())))
    with pytest.raises(RegistryError, match="another collects"):
        collect(shifted(registry, 900.0))


def sleep_of(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """Have the clocks as after the machine slept: one counts that, time.monotonic does not."""
    awake = time.clock_gettime
    monkeypatch.setattr(
        "time.clock_gettime", lambda clock: awake(clock) + (seconds if clock == time.CLOCK_BOOTTIME else 0.0)
    )


def test_writer_whose_machine_slept_makes_no_version(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A lid that was closed over an upload counts: the files may be collected by now."""
    registry = open_registry(str(tmp_path / "registry"), create=True)

    def sleep(file: str, done: int, whole: int) -> None:
        if done == whole:
            sleep_of(monkeypatch, 301.0)

    with pytest.raises(RegistryError, match="stood still"):
        register(registry, model, "fraud", on_progress=sleep)
    assert registry.names() == []


def test_record_that_was_created_after_a_sleep_is_withdrawn(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also between the last look at the files and the record a machine may sleep."""
    registry = open_registry(str(tmp_path / "registry"), create=True)
    create = registry.storage.create

    def late(key: str, content: bytes) -> None:
        sleep_of(monkeypatch, 301.0)
        create(key, content)

    monkeypatch.setattr(registry.storage, "create", late)
    with pytest.raises(RegistryError, match="stood still"):
        register(registry, model, "fraud")
    assert registry.numbers("fraud") == []


def test_collection_whose_machine_slept_removes_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another writes meanwhile, since a collection that began so long ago is taken for dead."""
    registry = open_registry(str(tmp_path / "registry"), create=True)
    registry.storage.write(file_key("0" * 64), b"of another version by now")

    class Slept(Registry):
        """A registry whose machine sleeps while the versions are read."""

        def names(self) -> list[str]:
            """Return the names, late."""
            sleep_of(monkeypatch, 601.0)
            return super().names()

    collected = collect(Slept(registry.storage))
    assert (collected.files, collected.warnings) == (0, ["the term is over; collect again for the rest"])


@EVERY_PLACE
def test_version_without_its_files_is_not_made(url: str, model: Path) -> None:
    """Whoever takes a file away while a version is written hears of it from the writer, not from a server."""
    registry = open_registry(url, create=True)

    def remove(file: str, done: int, whole: int) -> None:
        if done == whole:
            registry.storage.delete(registry.storage.find("files/")[0].key)

    with pytest.raises(RegistryError, match="was removed or cut short by another"):
        register(registry, model, "fraud", on_progress=remove)
    assert registry.names() == []
