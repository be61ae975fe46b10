"""Directories that are drafted: whole, on the disk and readable by others, or not there."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from tailrace.errors import ModelPackageError, RegistryError
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
