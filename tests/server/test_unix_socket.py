"""The socket at a path: who gets it, who may connect, and what of it is left."""

from __future__ import annotations

import fcntl
import os
import socket
import stat
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from unix_client import connect_unix

from tailrace.errors import SetupError
from tailrace.server import unix_socket
from tailrace.server.options import ServeOptions
from tailrace.server.unix_socket import PATH_BYTES_MAX, UnixSocket

Make = Callable[..., UnixSocket]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return a path for a socket."""
    return tmp_path / "s"


@pytest.fixture
def make(path: Path) -> Iterator[Make]:
    """Return what makes a socket of the path, which is closed after the test."""
    with ExitStack() as stack:

        def make(place: Path = path, *, mode: str = "600", takeover: bool = False) -> UnixSocket:
            made = UnixSocket(str(place), mode, takeover=takeover)
            stack.callback(made.close)
            return made

        yield make


@pytest.mark.parametrize("mode", ["600", "660", "777"])
def test_file_has_the_mode_that_was_asked_for(path: Path, make: Make, mode: str) -> None:
    """The owner alone may connect, or who the mode says, whatever the process's umask takes away."""
    mask = os.umask(0o077)
    try:
        make(mode=mode).open()
    finally:
        os.umask(mask)
    assert stat.S_IMODE(path.stat().st_mode) == int(mode, 8)
    assert os.listdir(path.parent) == ["s"]


def test_socket_is_made_once_and_leaves_nothing(path: Path, make: Make) -> None:
    """All workers get the same one; when it is closed its file is gone."""
    unix = make()
    unix.check()
    assert not path.exists()
    assert unix.open() is unix.open()
    connect_unix(path).close()
    unix.close()
    assert not os.listdir(path.parent)


def test_file_that_nobody_answers_on_is_replaced(path: Path, make: Make) -> None:
    """What a killed server has left, and a name that it had not given yet, are in nobody's way."""
    for name in (path, Path(f"{path}.new")):
        with socket.socket(socket.AF_UNIX) as killed:
            killed.bind(str(name))
    unix = make()
    unix.check()
    unix.open()
    connect_unix(path).close()
    assert os.listdir(path.parent) == ["s"]


@pytest.mark.parametrize("name", ["s", "s.new"])
def test_what_is_no_socket_is_never_touched(path: Path, make: Make, name: str) -> None:
    """A file, and what a link leads to: at the path, and at the name that the socket has until it listens."""
    kept, place = path.with_name("kept"), path.with_name(name)
    kept.write_text("kept")
    unix = make()
    for put in (place.write_text, lambda _: place.symlink_to(kept)):
        put("kept")
        for act in (unix.check, unix.open):
            with pytest.raises(SetupError, match="no socket, and is kept") as error:
                act()
            assert error.value.where == str(place)
        assert place.read_text() == "kept"
        place.unlink()


@pytest.mark.parametrize("backlog", [0, 8])
def test_socket_that_is_answered_is_kept(path: Path, make: Make, backlog: int) -> None:
    """A server that listens keeps its path, also one whose connections all wait; the error says what to do."""
    with socket.socket(socket.AF_UNIX) as other, ExitStack() as stack:
        other.bind(str(path))
        other.listen(backlog)
        if not backlog:
            stack.enter_context(connect_unix(path))
        unix = make()
        for act in (unix.check, unix.open):
            with pytest.raises(SetupError, match="another server answers") as caught:
                act()
        assert caught.value.where == str(path)
        assert "--unix-takeover" in str(caught.value)


def test_file_that_is_no_socket_is_kept(path: Path, make: Make) -> None:
    """A file, or a link, is never removed."""
    path.write_text("mine")
    for takeover in (False, True):
        with pytest.raises(SetupError, match="no socket, and is kept"):
            make(takeover=takeover).check()
    assert path.read_text() == "mine"


def test_of_two_servers_that_find_the_path_free_one_is_refused(make: Make) -> None:
    """Both may start; who is ready first has the path, and the other hears so."""
    first, second = make(), make()
    first.check()
    second.check()
    first.open()
    with pytest.raises(SetupError, match="another server answers"):
        second.open()


def test_taken_over_socket_goes_on_and_leaves_the_file(path: Path, make: Make) -> None:
    """Who has connected to the old server is still its caller; its end leaves the new one's file."""
    old, new = make(), make(takeover=True)
    listener = old.open()
    with connect_unix(path):
        new.open()
        listener.accept()[0].close()
    old.close()
    with connect_unix(path):
        new.open().accept()[0].close()


def test_shut_socket_refuses_and_gives_what_waits(path: Path, make: Make) -> None:
    """Whoever has connected before is still accepted, and nobody after."""
    unix = make()
    listener = unix.open()
    held = Path(f"{path}.held")
    os.link(path, held)  # a caller that has found the file before it was removed
    with connect_unix(path):
        unix.turn_away()
        with pytest.raises(ConnectionRefusedError):
            connect_unix(held)
        with pytest.raises(FileNotFoundError):
            connect_unix(path)
        listener.accept()[0].close()
        with pytest.raises(OSError, match="Invalid argument"):
            listener.accept()


@pytest.mark.parametrize("missing", ["none/s", "file/s"])
def test_folder_that_is_missing_is_told_at_the_start(path: Path, make: Make, missing: str) -> None:
    """The server need not load its models to hear that there is no place for its socket."""
    path.with_name("file").touch()
    with pytest.raises(SetupError, match="its folder is missing"):
        make(path.with_name("x").parent / missing).check()


def test_folder_whose_lock_is_held_is_told(path: Path, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another program's lock is not awaited for ever."""
    monkeypatch.setattr(unix_socket, "_LOCK_S_MAX", 0.02)
    descriptor = os.open(path.parent, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        with pytest.raises(SetupError, match="holds the folder's lock"):
            make().open()
    finally:
        os.close(descriptor)


def test_too_long_a_path_is_told() -> None:
    """A path over the limit is refused before anything starts, with its size, the limit and what to do; ü has two."""
    ServeOptions(files=(), unix="/" + "x" * (PATH_BYTES_MAX - 1))
    long = "/" + "ü" * (PATH_BYTES_MAX // 2) + "x"
    with pytest.raises(SetupError, match=f"has {PATH_BYTES_MAX + 1} bytes, and a socket's may have 103") as caught:
        ServeOptions(files=(), unix=long)
    assert caught.value.where == long
    assert "shorter" in str(caught.value)


def test_longest_path_can_be_had(path: Path, make: Make) -> None:
    """The name that the socket has before it is ready fits too."""
    room = PATH_BYTES_MAX - len(str(path.parent)) - 1
    longest = path.with_name("x" * room)
    make(longest).open()
    connect_unix(longest).close()


@pytest.mark.parametrize("options", [{"unix": ""}, {"unix": "a\0b"}, {"unix_mode": "0o600"}, {"unix_mode": "689"}])
def test_nonsense_is_refused(options: dict[str, Any]) -> None:
    """A path that is none, and a mode that is none, are told before anything starts."""
    with pytest.raises(SetupError):
        ServeOptions(files=(), **options)
