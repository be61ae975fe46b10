"""Releases that a prediction log names: they outlive their servers, and go when the log has no line of them."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from test_shelf import PIPELINE, file

from tailrace.release.logged import NAMED, forget_releases, keep_logged, name_release, shelf_named
from tailrace.release.pin import let_go, pin, pin_again, shelf_of
from tailrace.release.pinned import Pin, Release
from tailrace.release.settle import settle
from tailrace.release.shelf import MODELS, SERVERS, SOURCES
from tailrace.server.declared import load_all
from tailrace.server.observing.logged_releases import LoggedReleases

__all__ = ["file"]

NOON_S = 1_750_075_200.0
"""2025-06-16T12:00:00Z."""


def logged(pinned: Pin, log: Path) -> Release:
    """Return the release of a pin, of which a log has lines now."""
    release = settle(pinned, load_all(pinned))
    name_release(log, release.id)
    with shelf_of(pinned) as shelf:
        keep_logged(shelf, pinned, release.id, log)
    return release


def start_another(file: Path, root: Path) -> None:
    """Start and end a server on the same directory, with another source: it sweeps."""
    file.write_text(PIPELINE.replace("50ms", "90ms"))
    with pin([str(file)], str(root)):
        pass


def test_release_that_a_log_names_outlives_its_server(file: Path, tmp_path: Path) -> None:
    """With its sources and models, until the log has no file as old as its last lines."""
    root, log = tmp_path / "kept", tmp_path / "log"
    with pin([str(file)], str(root)) as pinned:
        release = logged(pinned, log)
    start_another(file, root)
    assert Path(release.models[0].copy).is_dir()
    assert Path(pinned.copy_of(str(file))).is_dir()
    assert (root / SERVERS / f"logged-{release.id}" / "release-1.json").is_file()
    written_s = (log / NAMED / release.id).stat().st_mtime
    forget_releases(log, written_s - 1)
    start_another(file, root)
    assert Path(release.models[0].copy).is_dir()
    forget_releases(log, written_s + 1)
    start_another(file, root)
    assert not list((root / MODELS).iterdir())
    assert not Path(pinned.copy_of(str(file))).exists()
    assert not (root / SERVERS / f"logged-{release.id}").exists()


def test_release_is_kept_that_its_server_serves_no_longer(file: Path, tmp_path: Path) -> None:
    """A roll-out lets go of it, and the log does not; of one that no log names nothing is left."""
    root, log = tmp_path / "kept", tmp_path / "log"
    with pin([str(file)], str(root)) as first:
        release = logged(first, log)
        file.write_text(PIPELINE.replace("50ms", "60ms"))
        second = pin_again(first)
        let_go(first)
        file.write_text(PIPELINE.replace("50ms", "70ms"))
        pin_again(first)
        let_go(second)
        assert Path(release.models[0].copy).is_dir()
        assert Path(first.copy_of(str(file))).is_dir()
        assert len(list((root / SOURCES).iterdir())) == 2


def test_release_of_two_logs_is_kept_for_either(file: Path, tmp_path: Path) -> None:
    """One of them may be removed."""
    root, logs = tmp_path / "kept", [tmp_path / "one", tmp_path / "other"]
    with pin([str(file)], str(root)) as pinned:
        for log in logs:
            release = logged(pinned, log)
    (logs[0] / NAMED / release.id).unlink()
    (logs[0] / NAMED).rmdir()
    logs[0].rmdir()
    start_another(file, root)
    assert Path(release.models[0].copy).is_dir()


def test_release_that_its_server_does_not_know_is_left(file: Path, tmp_path: Path) -> None:
    """It says nothing, and keeps nothing."""
    with pin([str(file)], str(tmp_path / "kept")) as pinned, shelf_of(pinned) as shelf:
        keep_logged(shelf, pinned, "0123456789ab", tmp_path / "log")
        assert [path.name for path in (tmp_path / "kept" / SERVERS).iterdir()] == [os.path.basename(pinned.folder)]


def test_file_that_cannot_be_read_keeps_no_release_from_its_log(file: Path, tmp_path: Path) -> None:
    """One that a power failure or a person has left beside it, as of a release that is settled just now."""
    with pin([str(file)], str(tmp_path / "kept")) as pinned:
        for name in ("release-0.json", "release-9.json"):
            (Path(pinned.folder) / name).write_text("{")
        release = logged(pinned, tmp_path / "log")
    assert shelf_named(tmp_path / "log", release.id) == tmp_path / "kept"


def test_log_without_names_forgets_nothing(tmp_path: Path) -> None:
    """One of an earlier version, say."""
    forget_releases(tmp_path, 1e12)
    with pytest.raises(FileNotFoundError):
        (tmp_path / NAMED).stat()


@pytest.fixture
def noted(tmp_path: Path) -> Path:
    """A log with one file, begun at a known time."""
    log = tmp_path / "log"
    hour = log / "fraud" / "2025-06-16T12"
    hour.mkdir(parents=True)
    (hour / f"{int(NOON_S * 1e6)}-1-0.arrows").touch()
    return log


def test_release_of_the_oldest_file_is_not_forgotten(file: Path, tmp_path: Path, noted: Path) -> None:
    """The time of a name comes from a clock with ticks, and may be before that of the file that it stands for."""
    with pin([str(file)], str(tmp_path / "kept")) as pinned:
        releases, release = LoggedReleases(noted, pinned), settle(pinned, load_all(pinned))
        name_release(noted, release.id)
        os.utime(noted / NAMED / release.id, (NOON_S - 0.004, NOON_S - 0.004))
        releases.name([])
        assert (noted / NAMED / release.id).exists()


def test_release_that_could_not_be_noted_is_noted_the_next_time(file: Path, tmp_path: Path, noted: Path) -> None:
    """Its lines are written, and no more of them may come."""
    with pin([str(file)], str(tmp_path / "kept")) as pinned:
        releases, release = LoggedReleases(noted, pinned), settle(pinned, load_all(pinned))
        (noted / NAMED).touch()
        with pytest.raises(OSError, match=NAMED):
            releases.name([release.id])
        (noted / NAMED).unlink()
        releases.name([])
        assert shelf_named(noted, release.id) == tmp_path / "kept"


def test_log_that_was_removed_tells_again_where_its_releases_are(file: Path, tmp_path: Path, noted: Path) -> None:
    """Who explains one of its decisions need not know how its server was started."""
    with pin([str(file)], str(tmp_path / "kept")) as pinned:
        releases, release = LoggedReleases(noted, pinned), settle(pinned, load_all(pinned))
        releases.name([release.id])
        shutil.rmtree(noted / NAMED)
        releases.name([release.id])
        assert shelf_named(noted, release.id) == tmp_path / "kept"
