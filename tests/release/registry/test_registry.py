"""What a registry promises, whatever it lies in: versions that never change, whole or not at all, held or gone."""

from __future__ import annotations

import shutil
from pathlib import Path

import msgspec
import pytest

from tailrace.errors import ModelPackageError, RegistryError
from tailrace.inference.model_directory import read_manifest
from tailrace.release.registry.envelope import seal
from tailrace.release.registry.fetching import fetch_directory
from tailrace.release.registry.garbage import Retention, _collecting, collect, delete
from tailrace.release.registry.notes import hold, let_go, remove_alias, remove_tag, set_alias, set_tag
from tailrace.release.registry.records import FileRecord, VersionRecord, digest_of, encode
from tailrace.release.registry.reference import Reference
from tailrace.release.registry.registering import COLLECTION, DRAFTS, register
from tailrace.release.registry.registry import Registry, file_key, open_registry, version_key

DAY_S = 86_400.0


@pytest.fixture
def registry(url: str) -> Registry:
    """Return an empty registry of each kind."""
    return open_registry(url, create=True)


def contents(folder: Path) -> dict[str, bytes]:
    """Return the files of a folder."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def keys(registry: Registry, prefix: str = "") -> list[str]:
    """Return the keys of a registry's objects."""
    return [found.key for found in registry.storage.find(prefix)]


def test_version_is_fetched_as_it_was_registered(registry: Registry, model: Path, tmp_path: Path) -> None:
    """What comes back is the directory, byte for byte, with its record: number, files, digest, metrics."""
    (model / "more").mkdir()
    (model / "more" / "words.bin").write_bytes(b"\0" * 3_000_000)  # over one part
    seen: list[tuple[str, int, int]] = []
    version = register(registry, model, "fraud", on_progress=lambda *progress: seen.append(progress))
    fetch_directory(registry, registry.version("fraud", 1).record, tmp_path / "out")
    assert contents(tmp_path / "out") == contents(model)
    assert version == registry.version("fraud", 1)
    assert version.record.reference == "fraud@1"
    assert version.record.metrics == read_manifest(model).metrics
    assert seen[-1][1:] == (version.record.size_bytes, version.record.size_bytes)
    assert keys(registry, f"{DRAFTS}/") == []


def test_numbers_go_up_and_are_never_given_again(registry: Registry, model: Path) -> None:
    """A version that was deleted leaves its number; what names it hears who deleted it."""
    assert [register(registry, model, "fraud").record.number for _ in range(3)] == [1, 2, 3]
    delete(registry, "fraud", 3)
    assert register(registry, model, "fraud").record.number == 4
    assert [each.number for each in registry.versions("fraud")] == [4, 2, 1]
    with pytest.raises(RegistryError, match="was deleted at"):
        registry.version("fraud", 3)
    with pytest.raises(RegistryError, match="no such version; the newest of 'fraud' is 4"):
        registry.version("fraud", 5)
    with pytest.raises(RegistryError, match="no model 'pay'"):
        registry.version("pay", 1)


def test_alias_moves_and_its_version_cannot_be_deleted(registry: Registry, model: Path) -> None:
    """An alias names one version at a time, remembers its moves, and holds the version."""
    for _ in range(2):
        register(registry, model, "fraud")
    production = Reference.parse("fraud@production")
    assert set_alias(registry, "production", "fraud", 1) is None
    assert registry.resolve(production).record.number == 1
    assert set_alias(registry, "production", "fraud", 2) == 1
    assert registry.resolve(production).record.number == 2
    assert [move.number for move in registry.aliases("fraud")["production"].moves] == [2, 1]
    with pytest.raises(RegistryError, match="held by the alias 'production'"):
        delete(registry, "fraud", 2)
    delete(registry, "fraud", 1)
    with pytest.raises(RegistryError, match="was deleted"):
        set_alias(registry, "production", "fraud", 1)
    assert remove_alias(registry, "production", "fraud") == 2
    with pytest.raises(RegistryError, match="no alias 'production'"):
        registry.resolve(production)
    delete(registry, "fraud", 2)


def test_hold_keeps_a_version_until_its_time(registry: Registry, model: Path) -> None:
    """A version that a log or a release needs is neither deleted nor collected before the time is over."""
    register(registry, model, "fraud")
    now_s = registry.now_s()
    hold(
        registry, "fraud", 1, hold_id="log-1", holder="the log of fraud", why="kept for 90 days", until_s=now_s + DAY_S
    )
    with pytest.raises(RegistryError, match=r"held by the log of fraud until .* \(kept for 90 days\)"):
        delete(registry, "fraud", 1)
    kept = collect(registry, Retention(keep=0))
    assert (kept.versions, list(kept.kept), kept.files) == ([], ["fraud@1"], 0)
    hold(registry, "fraud", 1, hold_id="log-1", holder="the log of fraud", why="kept", until_s=now_s - 60)
    gone = collect(registry, Retention(keep=0))
    assert (gone.versions, gone.holds, gone.files) == (["fraud@1"], 1, 2)
    assert keys(registry, "files/") == []


def test_hold_can_end_before_its_time(registry: Registry, model: Path) -> None:
    """Whoever holds lets go."""
    register(registry, model, "fraud")
    hold(registry, "fraud", 1, hold_id="a", holder="a", why="b", until_s=registry.now_s() + DAY_S)
    let_go(registry, "fraud", 1, "a")
    delete(registry, "fraud", 1)


def test_tags_are_noted_and_removed(registry: Registry, model: Path) -> None:
    """A tag can be set, changed and removed, and goes with its version."""
    register(registry, model, "fraud")
    set_tag(registry, "fraud", 1, "reviewed-by", "risk")
    set_tag(registry, "fraud", 1, "reviewed-by", "fraud team")
    set_tag(registry, "fraud", 1, "ticket", "1")
    remove_tag(registry, "fraud", 1, "ticket")
    assert {tag: record.value for tag, record in registry.tags("fraud", 1).items()} == {"reviewed-by": "fraud team"}
    with pytest.raises(RegistryError, match="no tag 'ticket'"):
        remove_tag(registry, "fraud", 1, "ticket")
    with pytest.raises(RegistryError, match="at most 1000"):
        set_tag(registry, "fraud", 1, "long", "x" * 1001)
    delete(registry, "fraud", 1)
    assert keys(registry, "models/") == ["models/fraud/deleted/1.json"]


def test_collection_keeps_the_newest_and_what_is_aliased(registry: Registry, model: Path, packaged: Path) -> None:
    """Only old versions beyond the newest go, and only files that no version is left of."""
    for directory in (packaged / "two", model, model, model):
        register(registry, directory, "fraud")
    set_alias(registry, "staging", "fraud", 2)
    assert collect(registry, Retention(keep=1, older_than_s=DAY_S)).versions == []  # they are not that old
    collected = collect(registry, Retention(keep=1))
    assert (collected.versions, collected.kept) == (["fraud@3", "fraud@1"], {"fraud@2": ["the alias 'staging'"]})
    assert collected.files == 2  # of the other model; the files of the three equal versions are the same
    assert collected.bytes == sum(len(content) for content in contents(packaged / "two").values())
    assert [each.number for each in registry.versions("fraud")] == [4, 2]
    assert keys(registry, COLLECTION) == []


@pytest.mark.parametrize("damage", ["cut", "altered", "longer", "gone"])
def test_file_that_is_damaged_is_refused(registry: Registry, model: Path, tmp_path: Path, damage: str) -> None:
    """A file that is not what was registered is never given out, and nothing is left; registering again heals it."""
    record = register(registry, model, "fraud").record
    key = file_key(record.files["model.onnx"].sha256)
    content = b"".join(registry.storage.stream(key))
    registry.storage.delete(key)
    changed = {"cut": content[:-1], "altered": content[:-1] + b"?", "longer": content + b"?"}
    if damage != "gone":
        registry.storage.write(key, changed[damage])
    with pytest.raises(RegistryError, match=r"fraud@1: model\.onnx: it was cut short or altered"):
        fetch_directory(registry, record, tmp_path / "out")
    assert [path for path in tmp_path.iterdir() if "out" in path.name] == []
    register(registry, model, "fraud")
    fetch_directory(registry, record, tmp_path / "out")


def test_record_that_is_damaged_is_listed_and_refused(registry: Registry, model: Path) -> None:
    """One bad record spoils neither the list nor the other versions, and no file is collected until it is gone."""
    for _ in range(2):
        register(registry, model, "fraud")
    content = registry.storage.read(version_key("fraud", 1))
    for damaged in (content[:-40], b"", b"\xff\xfe", b"{}", content.replace(b"tailrace", b"other")):
        registry.storage.write(version_key("fraud", 1), damaged)
        with pytest.raises(RegistryError, match="cut short or altered"):
            registry.version("fraud", 1)
        assert [(each.number, bool(each.version)) for each in registry.versions("fraud")] == [(2, True), (1, False)]
    registry.storage.write(file_key("0" * 64), b"garbage")
    collected = collect(registry)
    assert collected.files == 0
    assert "no file is removed: fraud@1" in collected.warnings[0]
    delete(registry, "fraud", 1)
    assert collect(registry).files == 1


def test_record_of_another_version_is_refused(registry: Registry, model: Path) -> None:
    """A record that was copied to another name or number is not taken for that version."""
    register(registry, model, "fraud")
    content = registry.storage.read(version_key("fraud", 1))
    for name, number in (("fraud", 2), ("pay", 1)):
        registry.storage.write(version_key(name, number), content)
        with pytest.raises(RegistryError, match="it is the record of fraud@1"):
            registry.version(name, number)


@pytest.mark.parametrize(
    "name", ["../x", "/etc/x", "a/../../x", "a\\b", "a\0b", "", "a//b", "./a", "a\nb", "\x1b[2J", "x" * 256]
)
def test_file_name_that_leads_out_is_refused(model: Path, tmp_path: Path, name: str) -> None:
    """A record that somebody wrote to lead out of the directory is refused before a file of it is read."""
    registry = open_registry(str(tmp_path / "registry"), create=True)
    record = register(registry, model, "fraud").record
    files = {name: FileRecord("0" * 64, 1)}
    forged = msgspec.structs.replace(record, number=2, files=files, digest=digest_of(files))
    registry.storage.write(version_key("fraud", 2), seal(encode(forged), None))
    with pytest.raises(RegistryError, match="no name of a file"):
        registry.version("fraud", 2)


def test_sha256_that_leads_out_is_refused(registry: Registry, model: Path) -> None:
    """The key of a file cannot lead out of the registry's files."""
    record: VersionRecord = register(registry, model, "fraud").record
    files = {"model.onnx": FileRecord("../../secret", 1)}
    forged = msgspec.structs.replace(record, number=2, files=files, digest=digest_of(files))
    registry.storage.write(version_key("fraud", 2), seal(encode(forged), None))
    with pytest.raises(RegistryError, match="has no sha256"):
        registry.version("fraud", 2)


@pytest.mark.parametrize("name", ["../x", "/x", "x/y", "", ".", "..", "x\0", "x\n", "-x", "é", "x" * 101])
def test_name_that_leads_out_is_refused(model: Path, tmp_path: Path, name: str) -> None:
    """Names of models, aliases, tags and holds are parts of paths, and nothing else."""
    registry = open_registry(str(tmp_path / "registry"), create=True)
    register(registry, model, "fraud")
    until_s = registry.now_s() + DAY_S
    for attempt in (
        lambda: register(registry, model, name),
        lambda: set_alias(registry, name, "fraud", 1),
        lambda: set_tag(registry, "fraud", 1, name, "x"),
        lambda: hold(registry, "fraud", 1, hold_id=name, holder="x", why="x", until_s=until_s),
        lambda: Reference.parse(f"{name}@1"),
        lambda: Reference.parse(f"fraud@{name}"),
    ):
        with pytest.raises(RegistryError):
            attempt()
    assert len(keys(registry, "models/")) == 1


def test_what_others_put_there_is_passed_over(model: Path, tmp_path: Path) -> None:
    """A name that no registry gives, which a terminal might obey, is neither a model's nor an alias'."""
    registry = open_registry(str(tmp_path / "registry"), create=True)
    register(registry, model, "fraud")
    for key in (
        "models/\x1b[31m/versions/1.json",
        "models/fraud/aliases/\x1b[31m.json",
        "models/fraud/versions/x.json",
    ):
        registry.storage.write(key, b"{}")
    assert registry.names() == ["fraud"]
    assert registry.aliases("fraud") == {}
    assert registry.numbers("fraud") == [1]


@pytest.mark.parametrize("which", ["0", "-1", "99999999999999999999", "٣", "1 ", "production@2"])
def test_number_that_is_none_is_refused(which: str) -> None:
    """A number is written in digits, from 1 on."""
    with pytest.raises(RegistryError):
        Reference.parse(f"fraud@{which}")


def test_directory_that_is_no_model_is_refused(registry: Registry, model: Path) -> None:
    """What cannot be served is not registered: a directory cut short, altered, or with a link in it."""
    (model / "link").symlink_to("/etc/hostname")
    with pytest.raises(RegistryError, match="is a link"):
        register(registry, model, "fraud")
    (model / "link").unlink()
    with (model / "model.onnx").open("ab") as file:
        file.write(b"?")
    with pytest.raises(ModelPackageError, match="cut short or altered"):
        register(registry, model, "fraud")
    assert registry.names() == []


def test_place_without_a_registry_is_told(url: str) -> None:
    """Whoever reads where there is none hears so, and none is made."""
    with pytest.raises(RegistryError, match="there is no registry"):
        open_registry(url)
    open_registry(url, create=True)
    open_registry(url)


def test_registry_of_another_format_is_refused(registry: Registry, url: str) -> None:
    """A registry that a later Tailrace wrote is left alone."""
    registry.storage.write("registry.json", b'{"format": 2}')
    for create in (False, True):
        with pytest.raises(RegistryError, match="has format 2"):
            open_registry(url, create=create)


@pytest.mark.parametrize("content", [b"", b'{"for', b"\xff", b"x" * (2 << 20)])
def test_registry_that_is_half_written_is_refused(registry: Registry, url: str, content: bytes) -> None:
    """What says that it is a registry was cut short, or is something else."""
    registry.storage.write("registry.json", content)
    for create in (False, True):
        with pytest.raises(RegistryError, match="cut short or altered"):
            open_registry(url, create=create)


def test_files_being_written_are_not_collected(registry: Registry, model: Path, packaged: Path) -> None:
    """A collection in the midst of a registration leaves its files; of the old ones it takes what nobody needs."""
    register(registry, packaged / "two", "fraud")
    delete(registry, "fraud", 1)
    collected = []

    def collect_midway(file: str, done: int, whole: int) -> None:
        if done == whole:
            collected.append(collect(registry))

    version = register(registry, model, "fraud", on_progress=collect_midway)
    assert [each.files for each in collected] == [2]
    assert registry.version("fraud", 2) == version
    fetch_directory(registry, version.record, model.parent / "out")


def test_collection_is_one_at_a_time(registry: Registry, model: Path) -> None:
    """A second collection is refused while one is under way."""
    register(registry, model, "fraud")
    with _collecting(registry), pytest.raises(RegistryError, match="another collects"):
        collect(registry)
    collect(registry)


def test_directory_that_exists_is_not_written_over(registry: Registry, model: Path, tmp_path: Path) -> None:
    """A fetch replaces a directory only where it was asked to."""
    record = register(registry, model, "fraud").record
    (tmp_path / "out").mkdir()
    with pytest.raises(RegistryError, match="the directory exists"):
        fetch_directory(registry, record, tmp_path / "out")
    fetch_directory(registry, record, tmp_path / "out", overwrite=True)
    assert contents(tmp_path / "out") == contents(model)


def test_version_that_does_not_fit_is_not_read(registry: Registry, model: Path, tmp_path: Path) -> None:
    """A record that promises more bytes than the disk has room for is refused before the first of them."""
    record = register(registry, model, "fraud").record
    files = {name: msgspec.structs.replace(file, size_bytes=1 << 60) for name, file in record.files.items()}
    with pytest.raises(RegistryError, match="are free"):
        fetch_directory(registry, msgspec.structs.replace(record, files=files), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_directory_altered_while_it_is_read_is_refused(registry: Registry, model: Path) -> None:
    """A file that changes between its sha256 and its upload makes no version."""

    def alter(file: str, done: int, whole: int) -> None:
        if done == 0:
            shutil.copy(model / "manifest.json", model / "model.onnx")

    with pytest.raises(RegistryError):
        register(registry, model, "fraud", on_progress=alter)
    assert registry.names() == []
