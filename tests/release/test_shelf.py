"""The directory that releases are kept in: who holds what, and what becomes of damage."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from pipelines.model_graphs import linear
from tailrace.inference.loading import load_model
from tailrace.inference.manifest import MANIFEST_FILE, MODEL_FILE
from tailrace.release.pin import pin
from tailrace.release.settle import settle
from tailrace.release.shelf import SOURCES
from tailrace.server.declared import load_all

PIPELINE = """
import tailrace as tr

class Payment(tr.Request):
    amount: float

class Decision(tr.Response):
    score: float

pay = tr.Pipeline(name="pay", request=Payment, response=Decision, features=[Payment.amount],
                  model=tr.Model("pay"), budget=tr.Budget("50ms"))
"""
Lock = Callable[[int, int], None]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Return a pipeline's file with its model."""
    (tmp_path / "app" / "models").mkdir(parents=True)
    linear(tmp_path / "app", "pay", {"amount": 0.001})
    (tmp_path / "app" / "pay").rename(tmp_path / "app" / "models" / "pay")
    (tmp_path / "app" / "pipeline.py").write_text(PIPELINE)
    return tmp_path / "app" / "pipeline.py"


def test_copies_are_held_whatever_the_directory_is_called(file: Path, tmp_path: Path) -> None:
    """A server that knows it by another name, of a bind mount say, keeps what it holds when the next one starts."""
    one, other = tmp_path / "one", tmp_path / "other"
    with pin([str(file)], str(one)) as first:
        (model,) = settle(first, load_all(first)).models
        one.rename(other)
        file.write_text(PIPELINE.replace("50ms", "60ms"))
        with pin([str(file)], str(other)) as second:
            assert Path(second.folders[0][1]).parent == other / SOURCES
            assert len(list((other / SOURCES).iterdir())) == 2
            assert (other / Path(model.copy).relative_to(one) / MODEL_FILE).is_file()


def test_directory_has_one_name(file: Path, tmp_path: Path) -> None:
    """A link on the way to it is followed, also to the one that is beside the file."""
    (tmp_path / "disk").mkdir()
    (file.parent / ".tailrace").symlink_to(tmp_path / "disk")
    with pin([str(file)], None) as pinned:
        assert pinned.root == str(tmp_path / "disk" / "releases")


def empty(path: Path) -> None:
    """Leave a file without content, as a power failure may."""
    path.chmod(0o600)
    path.write_bytes(b"")


@pytest.mark.parametrize("damage", [Path.unlink, empty])
def test_damaged_copy_of_modules_is_exchanged(damage: Callable[[Path], None], file: Path, tmp_path: Path) -> None:
    """The next start with the same modules mends it, for a living server that holds it too."""
    root = str(tmp_path / "kept")
    with pin([str(file)], root) as first:
        damage(Path(first.copy_of(str(file))) / "pipeline.py")
        with pin([str(file)], root) as second:
            assert first.folders == second.folders
            assert load_all(first)
            assert len(list(Path(root, SOURCES).iterdir())) == 1


@pytest.mark.parametrize("name", [MODEL_FILE, MANIFEST_FILE])
@pytest.mark.parametrize("damage", [Path.unlink, empty])
def test_damaged_copy_of_a_model_is_exchanged(
    damage: Callable[[Path], None], name: str, file: Path, tmp_path: Path
) -> None:
    """A release that is settled with the same model mends it, for all that hold it."""
    root = str(tmp_path / "kept")
    with pin([str(file)], root) as first:
        (model,) = settle(first, load_all(first)).models
        damage(Path(model.copy) / name)
        with pin([str(file)], root) as second:
            assert settle(second, load_all(second)).models == (model,)
            assert load_model(model.copy).version == model.version


def test_whole_copy_stays_where_it_is(file: Path, tmp_path: Path) -> None:
    """A start with the same files changes nothing that a living server holds."""
    root = str(tmp_path / "kept")
    with pin([str(file)], root) as first:
        (model,) = settle(first, load_all(first)).models
        copies = [Path(first.copy_of(str(file))), Path(model.copy)]
        before = [copy.stat().st_ino for copy in copies]
        with pin([str(file)], root) as second:
            settle(second, load_all(second))
            assert [copy.stat().st_ino for copy in copies] == before


def test_copies_are_on_the_disk_before_they_have_their_names(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is renamed before the power fails has its content after it."""
    synced: set[Path] = set()

    def fsync(descriptor: int) -> None:
        synced.add(Path(os.readlink(f"/proc/self/fd/{descriptor}")))

    monkeypatch.setattr(os, "fsync", fsync)
    with pin([str(file)], str(tmp_path / "kept")) as pinned:
        settle(pinned, load_all(pinned))
    names = {path.name for path in synced}
    assert names > {"pipeline.py", MODEL_FILE, MANIFEST_FILE, ".pin-1.json", ".release-1.json"}
    assert not [path for path in synced if path.exists()]  # it was synced by the name of its draft


def locks_of(folder: Path, lock: Lock, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the files in a folder locked as another file system does."""
    flock = fcntl.flock

    def chosen(descriptor: int, operation: int) -> None:
        path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        if path.is_relative_to(folder):
            lock(descriptor, operation)
        flock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", chosen)


def nfs(descriptor: int, operation: int) -> None:
    """Refuse a lock for one alone on a file that is open only to read, as flock(2) says of NFS."""
    if operation & fcntl.LOCK_EX and fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))


def without_locks(descriptor: int, operation: int) -> None:
    """Refuse all locks for one alone."""
    if operation & fcntl.LOCK_EX:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))


def test_releases_are_kept_on_nfs(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a living server holds stays there too, and what a dead one held goes."""
    root = tmp_path / "kept"
    locks_of(root, nfs, monkeypatch)
    with pin([str(file)], str(root)):
        file.write_text(PIPELINE.replace("50ms", "60ms"))
        with pin([str(file)], str(root)):
            assert len(list((root / SOURCES).iterdir())) == 2
    with pin([str(file)], str(root)):
        assert len(list((root / SOURCES).iterdir())) == 1


def test_directory_without_locks_gives_way(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no lock for one alone can be had, releases are kept in the temporary directory, and that is said."""
    locks_of(file.parent, without_locks, monkeypatch)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    told: list[str] = []
    with pin([str(file)], None, warn=told.append) as pinned:
        assert pinned.root.startswith(str(tmp_path / "tailrace-"))
    assert "No locks available" in told[0]
