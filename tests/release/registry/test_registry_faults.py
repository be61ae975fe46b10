"""A registry whose writers race, die and run out of room: two numbers, nothing visible, and nothing left for good."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from release.registry.s3_server import KEYS
from tailrace.errors import RegistryError
from tailrace.release.registry.fetching import fetch_directory
from tailrace.release.registry.garbage import DRAFT_S, Retention, collect, delete
from tailrace.release.registry.holder import is_gone, own_name
from tailrace.release.registry.notes import hold, set_alias
from tailrace.release.registry.partial import PARTIAL
from tailrace.release.registry.records import DraftRecord, encode
from tailrace.release.registry.registering import COLLECTION, DRAFTS, Draft, register
from tailrace.release.registry.registry import Registry, open_registry

REGISTER = """
import sys
from pathlib import Path
from tailrace.release.registry.registering import register
from tailrace.release.registry.registry import open_registry
registry = open_registry(sys.argv[1], create=True)
"""
MANY = (
    "import json; print(json.dumps([register(registry, Path(sys.argv[2]), 'fraud').record.number for _ in range(10)]))"
)
STOPS = """
def stop(file, done, whole):
    if done:
        print("writing", flush=True)
        sys.stdin.read()
register(registry, Path(sys.argv[2]), "fraud", on_progress=stop)
"""
FULL = """
import resource
from tailrace.errors import RegistryError
resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))
try:
    register(registry, Path(sys.argv[2]), "fraud")
except RegistryError as error:
    print(error)
"""
FOLDER_AND_S3 = pytest.mark.parametrize("url", ["folder", pytest.param("s3", marks=pytest.mark.slow)], indirect=True)


def run(script: str, url: str, model: Path) -> subprocess.Popen[str]:
    """Start a process that registers."""
    return subprocess.Popen(
        [sys.executable, "-c", REGISTER + script, url, str(model)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip


def make_large(model: Path) -> None:
    """Give a model directory a file of several parts."""
    (model / "words.bin").write_bytes(bytes(5_000_000))


@FOLDER_AND_S3
def test_two_processes_at_once_get_numbers_of_their_own(url: str, model: Path) -> None:
    """No number is given twice or left out, and every version is whole."""
    writers = [run(MANY, url, model) for _ in range(2)]
    numbers = [json.loads(writer.communicate(timeout=60)[0]) for writer in writers]
    assert [writer.returncode for writer in writers] == [0, 0]
    assert sorted([*numbers[0], *numbers[1]]) == list(range(1, 21))
    registry = open_registry(url)
    assert [each.number for each in registry.versions("fraud") if each.version is not None] == list(range(20, 0, -1))
    assert registry.storage.find(f"{DRAFTS}/") == []


@FOLDER_AND_S3
def test_writer_that_is_killed_leaves_nothing_visible(url: str, model: Path, tmp_path: Path) -> None:
    """Nobody sees the half of a version; a living writer's files stay, a dead one's are collected."""
    make_large(model)
    writer = run(STOPS, url, model)
    try:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "writing\n"
        registry = open_registry(url)
        assert registry.names() == []
        alive = collect(registry)
        assert (alive.files, alive.drafts) == (0, 0)
        assert len(registry.storage.find(f"{DRAFTS}/")) == 1
        writer.send_signal(signal.SIGKILL)
    finally:
        writer.kill()
        writer.communicate(timeout=60)
    assert registry.names() == []
    collected = collect(registry)
    assert collected.drafts >= 1
    assert [found.key for found in registry.storage.find("")] == ["registry.json"]
    record = register(registry, model, "fraud").record
    assert record.number == 1
    fetch_directory(registry, record, tmp_path / "out")


def test_writer_of_another_machine_is_dead_after_a_while(tmp_path: Path) -> None:
    """Of a writer that cannot be looked at only the time counts."""
    root = tmp_path / "registry"
    registry = open_registry(str(root), create=True)
    registry.storage.write(f"{DRAFTS}/other.json", encode(DraftRecord("another-machine-1-1", "fraud", ("0" * 64,))))
    registry.storage.write(f"files/{'0' * 64}", b"half a model")
    assert collect(registry).drafts == 0
    with pytest.raises(ValueError, match="may be silent"):
        collect(registry, draft_s=1.0)
    written_s = registry.storage.find(f"{DRAFTS}/")[0].modified_s
    os.utime(root / DRAFTS / "other.json", (written_s - DRAFT_S - 1,) * 2)
    collected = collect(registry)
    assert (collected.drafts, collected.files) == (1, 1)


def test_writer_that_stood_still_gives_up(tmp_path: Path) -> None:
    """A writer that was stopped for so long that it passes for dead makes no version of files that may be gone."""
    registry = open_registry(str(tmp_path / "registry"), create=True)
    draft = Draft(registry.storage, "fraud", {})
    draft.beat()
    draft._last_s -= 301.0
    with pytest.raises(TimeoutError, match="stood still"):
        draft.beat()


def test_full_disk_is_told(model: Path, tmp_path: Path) -> None:
    """The error says where and what next; nothing is visible, and no half of a file is left."""
    make_large(model)
    url = str(tmp_path / "registry")
    told, _ = run(FULL, url, model).communicate(timeout=60)
    assert told.startswith(f"{url}: it has no room left: ")
    assert "tailrace models gc" in told
    registry = open_registry(url)
    assert registry.names() == []
    assert registry.storage.find(f"{PARTIAL}/") == []
    assert registry.storage.find(f"{DRAFTS}/") == []
    collect(registry)
    assert [found.key for found in registry.storage.find("")] == ["registry.json"]


@pytest.mark.parametrize("number", [errno.EPERM, errno.EOPNOTSUPP])
def test_file_system_without_hard_links_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """A mount of FAT, or of some network file systems, would let two writers take one number."""

    def refuse(source: Path, target: Path) -> None:
        raise OSError(number, os.strerror(number), str(source), None, str(target))

    monkeypatch.setattr(os, "link", refuse)
    with pytest.raises(RegistryError, match="without hard links"):
        open_registry(str(tmp_path / "registry"), create=True)


def test_registry_deleted_meanwhile_is_told(model: Path, tmp_path: Path) -> None:
    """What is left of a registry that is removed is an error, and no empty list."""
    url = str(tmp_path / "registry")
    registry = open_registry(url, create=True)
    record = register(registry, model, "fraud").record
    (tmp_path / "registry").rename(tmp_path / "away")
    for attempt in (
        lambda: open_registry(url),
        lambda: registry.version("fraud", 1),
        lambda: fetch_directory(registry, record, tmp_path / "out"),
    ):
        with pytest.raises(RegistryError):
            attempt()


def test_writer_waits_for_a_collection(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files are not put while somebody collects who may not have seen the draft."""
    monkeypatch.setattr("tailrace.release.registry.registering._WAIT_STEP_S", 0.01)
    registry = open_registry(str(tmp_path / "registry"), create=True)
    registry.storage.write(COLLECTION, encode(DraftRecord(own_name(), "", ())))
    writer = threading.Thread(target=register, args=(registry, model, "fraud"))
    writer.start()
    try:
        while not registry.storage.find(f"{DRAFTS}/"):
            pass
        writer.join(0.05)
        assert registry.storage.find("files/") == []
    finally:
        registry.storage.delete(COLLECTION)
        writer.join(60)
    assert registry.numbers("fraud") == [1]


def test_collection_that_died_holds_nobody_up(model: Path, tmp_path: Path) -> None:
    """Neither a writer nor the next collection waits for one whose process has ended."""
    registry = open_registry(str(tmp_path / "registry"), create=True)
    gone = subprocess.run(
        [sys.executable, "-c", "from tailrace.release.registry.holder import own_name; print(own_name())"],
        capture_output=True, text=True, check=True, timeout=60,
    ).stdout.strip()  # fmt: skip
    assert is_gone(gone)
    assert not is_gone(own_name())
    registry.storage.write(COLLECTION, encode(DraftRecord(gone, "", ())))
    assert register(registry, model, "fraud").record.number == 1
    collect(registry)
    assert registry.storage.find(COLLECTION) == []


class Interrupted(Registry):
    """A registry in which another sets an alias just after somebody has looked whether there is one."""

    def holders(self, name: str, number: int, now_s: float | None = None) -> list[str]:
        """Return the holders; then comes the other."""
        found = super().holders(name, number, now_s)
        if not found:
            set_alias(Registry(self.storage), "production", name, number)
        return found


class InterruptedOnce(Registry):
    """The same, while the second version of a collection is deleted."""

    looks = 0

    def holders(self, name: str, number: int, now_s: float | None = None) -> list[str]:
        """Return the holders; then comes the other, once."""
        found = super().holders(name, number, now_s)
        self.looks += 1
        if self.looks == 5:  # a deletion looks three times
            set_alias(Registry(self.storage), "production", name, number)
        return found


def test_alias_set_while_its_version_is_deleted_wins(model: Path, tmp_path: Path) -> None:
    """The deletion looks again after it said so, steps back, and the version stays."""
    registry = open_registry(str(tmp_path / "registry"), create=True)
    register(registry, model, "fraud")
    with pytest.raises(RegistryError, match="held by the alias"):
        delete(Interrupted(registry.storage), "fraud", 1)
    assert registry.deleted("fraud") == []
    assert registry.version("fraud", 1).record.number == 1


def test_alias_of_a_version_being_deleted_is_refused(model: Path, tmp_path: Path) -> None:
    """Whoever holds looks for a deletion after the hold is written, and steps back; an earlier alias stays."""
    registry = open_registry(str(tmp_path / "registry"), create=True)
    for _ in range(2):
        register(registry, model, "fraud")
    set_alias(registry, "production", "fraud", 2)
    registry.storage.write("models/fraud/deleted/1.json", b'{"digest": "", "time": "", "by": ""}')
    with pytest.raises(RegistryError, match="being deleted"):
        set_alias(registry, "production", "fraud", 1)
    with pytest.raises(RegistryError, match="being deleted"):
        set_alias(registry, "staging", "fraud", 1)
    with pytest.raises(RegistryError, match="being deleted"):
        hold(registry, "fraud", 1, hold_id="log", holder="log", why="kept", until_s=registry.now_s() + 60)
    assert {alias: record.number for alias, record in registry.aliases("fraud").items()} == {"production": 2}
    assert collect(registry, Retention()).versions == ["fraud@1"]  # the deletion that was interrupted is finished
    assert registry.numbers("fraud") == [2]


class Glimpsed(Registry):
    """A registry in which another's alias is seen at the second look only: it is set, and taken back at once."""

    looks = 0

    def holders(self, name: str, number: int, now_s: float | None = None) -> list[str]:
        """Return the holders, and at the second look the alias."""
        self.looks += 1
        return ["the alias 'production'"] if self.looks == 2 else super().holders(name, number, now_s)


def test_deletion_that_steps_back_leaves_the_note_of_another(model: Path, tmp_path: Path) -> None:
    """The other relies on it: an alias that is set now must find it."""
    registry = open_registry(str(tmp_path / "registry"), create=True)
    register(registry, model, "fraud")
    registry.storage.write("models/fraud/deleted/1.json", b'{"digest": "", "time": "", "by": ""}')
    with pytest.raises(RegistryError, match="held by the alias"):
        delete(Glimpsed(registry.storage), "fraud", 1)
    assert registry.deleted("fraud") == [1]
    with pytest.raises(RegistryError, match="being deleted"):
        set_alias(registry, "production", "fraud", 1)


class TakenBack(Registry):
    """A registry in which another takes back its deletion while somebody looks who holds the version."""

    looks = 0

    def holders(self, name: str, number: int, now_s: float | None = None) -> list[str]:
        """Return the holders; then the deletion is gone."""
        found = super().holders(name, number, now_s)
        self.looks += 1
        if self.looks == 2:
            self.storage.delete("models/fraud/deleted/1.json")
        return found


def test_deletion_does_not_rely_on_a_note_that_is_taken_back(model: Path, tmp_path: Path) -> None:
    """Whoever sets an alias would not find it any more."""
    registry = open_registry(str(tmp_path / "registry"), create=True)
    register(registry, model, "fraud")
    registry.storage.write("models/fraud/deleted/1.json", b'{"digest": "", "time": "", "by": ""}')
    with pytest.raises(RegistryError, match="stepped back"):
        delete(TakenBack(registry.storage), "fraud", 1)
    assert registry.numbers("fraud") == [1]


def test_version_that_cannot_be_deleted_does_not_end_the_collection(model: Path, tmp_path: Path) -> None:
    """An alias that comes in between keeps its version; the others go, and so do the files of no version."""
    registry = open_registry(str(tmp_path / "registry"), create=True)
    for _ in range(3):
        register(registry, model, "fraud")
    registry.storage.write("files/" + "0" * 64, b"of no version")
    found = collect(InterruptedOnce(registry.storage), Retention(keep=0))
    assert (len(found.versions), found.files) == (2, 1)
    ((kept, why),) = found.kept.items()
    assert registry.aliases("fraud")["production"].number == int(kept.removeprefix("fraud@"))
    assert "held by the alias" in why[0]


def test_renewal_that_meets_a_deletion_leaves_the_hold(model: Path, tmp_path: Path) -> None:
    """The deletion, which is yet to look, finds what was there before it."""
    registry = open_registry(str(tmp_path / "registry"), create=True)
    register(registry, model, "fraud")
    until_s = registry.now_s() + 60
    hold(registry, "fraud", 1, hold_id="log", holder="log", why="kept", until_s=until_s)
    before = registry.holds("fraud", 1)
    registry.storage.write("models/fraud/deleted/1.json", b'{"digest": "", "time": "", "by": ""}')
    with pytest.raises(RegistryError, match="being deleted"):
        hold(registry, "fraud", 1, hold_id="log", holder="log", why="kept", until_s=until_s + 60)
    assert registry.holds("fraud", 1) == before


@pytest.mark.slow
def test_bucket_that_cannot_be_reached_is_told(s3_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """No server, no bucket, no credentials: an error of one sentence, within seconds."""
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    for url, said in (
        ("s3://models/x?region=eu-west-1&endpoint=http://127.0.0.1:9", "Could not connect"),
        (f"s3://absent/x?region=eu-west-1&endpoint={s3_endpoint}", "there is no bucket 'absent'"),
    ):
        with pytest.raises(RegistryError, match=said):
            open_registry(url)
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nonexistent")
    with pytest.raises(RegistryError, match="Unable to locate credentials"):
        open_registry(f"s3://models/x?region=eu-west-1&endpoint={s3_endpoint}")


@pytest.mark.parametrize("url", ["s3://", "", "a\0b", "nonsense://x/y", "s3://models/x?secret=1"])
def test_url_that_is_none_is_refused(url: str) -> None:
    """A registry's place is named in full."""
    with pytest.raises(RegistryError):
        open_registry(url)


def test_place_that_lets_two_create_one_object_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that ignores If-None-Match would give one number twice."""
    pytest.importorskip("fsspec")
    from tailrace.release.registry.any_storage import AnyStorage

    monkeypatch.setattr(AnyStorage, "create", AnyStorage.write)
    with pytest.raises(RegistryError, match="could take one number"):
        open_registry("memory://without-conditions", create=True)
