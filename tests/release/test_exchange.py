"""Directories that are drafted: whole, on the disk and readable by others, or not there."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from tailrace.errors import ModelPackageError, RegistryError
from tailrace.release import exchange
from tailrace.release.exchange import check_place, drafted, written


def test_draft_takes_its_place_once_it_is_whole(tmp_path: Path) -> None:
    """Until then what was there is there, and afterwards nothing of it; others may read what is."""
    out = tmp_path / "models" / "fraud"
    for content in ("one", "two"):
        with drafted(out) as draft:
            assert out.exists() == (content == "two")
            (draft / content).write_text(content)
        assert [path.name for path in out.iterdir()] == [content]
        assert out.stat().st_mode & 0o777 == 0o755
    assert [path.name for path in out.parent.iterdir()] == ["fraud"]


def test_draft_that_fails_leaves_nothing(tmp_path: Path) -> None:
    """Also where it is interrupted; what was there stays."""
    out = tmp_path / "fraud"
    out.mkdir()
    (out / "old").touch()

    def fail(error: type[BaseException]) -> None:
        with drafted(out) as draft:
            (draft / "new").touch()
            raise error

    for error in (ValueError, KeyboardInterrupt):
        with pytest.raises(error):
            fail(error)
    assert [path.name for path in tmp_path.iterdir()] == ["fraud"]
    assert [path.name for path in out.iterdir()] == ["old"]


def test_place_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    """A place that is forbidden, or full in the midst, is an error that says what, where and what next."""
    (tmp_path / "file").touch()

    def fill(out: Path) -> None:
        with written(out), drafted(out):
            raise OSError(errno.ENOSPC, "No space left on device")

    for out, said in ((tmp_path / "file" / "x" / "fraud", "Not a directory"), (tmp_path / "fraud", "No space left")):
        with pytest.raises(ModelPackageError, match=f"it cannot be written: {said}") as told:
            fill(out)
        assert str(tmp_path) in told.value.where
        assert "disk has room" in told.value.next
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_draft_is_on_the_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its files, its folder, and then the name itself: a power failure leaves the old one or the new one."""
    out = tmp_path / "fraud"
    synced: list[tuple[str, bool]] = []

    def fsync(descriptor: int) -> None:
        synced.append((Path(os.readlink(f"/proc/self/fd/{descriptor}")).name, out.exists()))

    monkeypatch.setattr(os, "fsync", fsync)
    with drafted(out) as draft:
        (draft / "inner").mkdir()
        (draft / "inner" / "model.onnx").touch()
    before = {name for name, is_there in synced if not is_there}
    assert before == {"inner", "model.onnx", draft.name}
    assert synced[-1] == (tmp_path.name, True)


def test_directory_that_exists_is_replaced_only_where_it_may_be(tmp_path: Path) -> None:
    """Whoever asks says in whose name it is refused."""
    check_place(tmp_path / "fraud", overwrite=False)
    check_place(tmp_path, overwrite=True)
    for error in (ModelPackageError, RegistryError):
        with pytest.raises(error, match="the directory exists"):
            check_place(tmp_path, overwrite=False, error=error)


def test_directory_of_other_things_is_never_replaced(tmp_path: Path) -> None:
    """`--out models --overwrite` would remove every model in it; a model directory may go, and an empty one."""
    out = tmp_path / "models"
    (out / "fraud").mkdir(parents=True)
    (out / "fraud" / "manifest.json").touch()
    with pytest.raises(RegistryError, match="it is no model directory"):
        check_place(out, overwrite=True, error=RegistryError)
    with pytest.raises(ModelPackageError, match="it is no directory"):
        check_place(out / "fraud" / "manifest.json", overwrite=True)
    (out / "empty").mkdir()
    for name in ("fraud", "empty", "absent"):
        check_place(out / name, overwrite=True)


def test_link_leads_to_what_is_replaced(tmp_path: Path) -> None:
    """The link stays, and nothing of what it led to is left beside it."""
    (tmp_path / "kept" / "v1").mkdir(parents=True)
    (tmp_path / "kept" / "v1" / "old").touch()
    link = tmp_path / "fraud"
    link.symlink_to("kept/v1")
    with drafted(link) as draft:
        (draft / "new").touch()
    assert link.is_symlink()
    assert [path.name for path in link.iterdir()] == ["new"]
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["fraud", "kept", "new", "v1"]


@pytest.mark.parametrize("is_put_back", [True, False])
def test_directory_that_was_moved_aside_is_never_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, is_put_back: bool
) -> None:
    """Where two names cannot change places, and the second step fails: it is put back, or stays where it is."""
    out, renamed, real = tmp_path / "fraud", list[str](), Path.rename
    out.mkdir()
    (out / "old").touch()

    def rename(path: Path, target: Path) -> Path:
        renamed.append(path.name)
        if len(renamed) == 2 or (len(renamed) == 3 and not is_put_back):
            raise OSError(errno.ESTALE, "Stale file handle", str(path), None, str(target))
        return real(path, target)

    monkeypatch.setattr(exchange, "_exchange", lambda one, other: False)
    monkeypatch.setattr(Path, "rename", rename)
    with pytest.raises(OSError, match="Stale"), drafted(out) as draft:
        (draft / "new").touch()
    assert out.exists() == is_put_back
    assert len(list(tmp_path.rglob("old"))) == 1
    assert not list(tmp_path.rglob("new"))
    assert not is_put_back or [path.name for path in tmp_path.iterdir()] == ["fraud"]
