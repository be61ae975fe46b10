"""The socket at a path, for callers on the same host: one, owned by the supervisor, which all workers accept on.

Unix sockets have no SO_REUSEPORT, and need none: the workers take turns, and connections that wait outlive a worker
that dies.

The socket is made when a worker is ready. It listens before it has its name, which it gets by a rename: a caller meets
the old server or the new one, and never none. The folder is locked meanwhile, so that of two servers that find the path
free one is refused.

To stop, the socket is shut, which for a Unix socket is exact: the kernel refuses whoever comes after, and what waits
can still be accepted.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from tailrace.errors import SetupError
from tailrace.server.slots import BACKLOG, shut_listener

PATH_BYTES_MAX: Final = 103
"""Of a path. unix(7) takes 107; the socket is made under a name that has four more."""
_NEW: Final = ".new"
_LOCK_S_MAX: Final = 1.0
_LOCK_LOOK_S: Final = 0.01


def check_unix(path: str | None, mode: str) -> None:
    """Raise SetupError for a path that no socket can have, or for what is no file mode."""
    if len(mode) != 3 or not set(mode) <= set("01234567"):
        raise SetupError(f"{mode!r} is no file mode", where="unix_mode", next="write it as 600, 660 or 666")
    if path is None:
        return
    size = len(os.fsencode(path))
    if size > PATH_BYTES_MAX:
        raise SetupError(
            f"the path has {size} bytes, and a socket's may have {PATH_BYTES_MAX}",
            where=path, next="choose a shorter one, in /run say",
        )  # fmt: skip
    if not path or "\0" in path:
        raise SetupError("the path of the socket is empty, or has a zero byte", where="unix", next="name a file")


class UnixSocket:
    """A listening socket with a name in the file system. mode: who may connect, in octal digits.

    takeover: whether it may have the path of a server that answers there.
    """

    def __init__(self, path: str, mode: str, *, takeover: bool) -> None:
        self.path = path
        self._mode = int(mode, 8)
        self._takeover = takeover
        self._listener: socket.socket | None = None
        self._file: os.stat_result | None = None

    def check(self) -> None:
        """Raise SetupError for what would keep the socket from being made once the workers are ready."""
        folder = Path(self.path).parent
        if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
            raise SetupError(
                "no socket can be made: its folder is missing, or may not be written to",
                where=self.path, next="make the folder, and have it belong to who runs the server",
            )  # fmt: skip
        self._check_place()

    def open(self) -> socket.socket:
        """Return the socket, which listens; the first time it is made. Raises SetupError where it cannot be."""
        if self._listener is None:
            try:
                with _locked(Path(self.path).parent):
                    self._check_place()
                    self._listener = self._make()
            except OSError as error:
                raise self._error(error.strerror or str(error)) from error
        return self._listener

    def turn_away(self) -> None:
        """Refuse whoever comes from now on, and give the path back, if it has not been taken over."""
        if self._listener is None:
            return
        with suppress(OSError, SetupError), _locked(Path(self.path).parent):
            if self._file is not None and os.path.samestat(os.lstat(self.path), self._file):
                os.unlink(self.path)
        self._file = None
        shut_listener(self._listener)

    def close(self) -> None:
        """Turn away, and let go of the socket."""
        self.turn_away()
        if self._listener is not None:
            self._listener.close()

    def _make(self) -> socket.socket:
        """Return a socket that listens, put in the path's place."""
        name = self.path + _NEW
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            with suppress(FileNotFoundError):
                os.unlink(name)  # of a server that was killed in between
            listener.bind(name)
            os.chmod(name, self._mode)
            listener.listen(BACKLOG)
            self._file = os.lstat(name)
            os.rename(name, self.path)
        except OSError:
            listener.close()
            raise
        return listener

    def _check_place(self) -> None:
        """Raise SetupError where the path is another's: a file, or the socket of a server that answers."""
        self._has_socket(self.path + _NEW)
        if self._has_socket(self.path) and not self._takeover and _is_answered(self.path):
            raise SetupError(
                "another server answers on the socket", where=self.path,
                next="stop that one, choose another path, or have this one take it over with --unix-takeover",
            )  # fmt: skip

    def _has_socket(self, path: str) -> bool:
        """Say whether there is a socket. Raises SetupError for anything else: that is not ours to replace."""
        try:
            mode = os.lstat(path).st_mode
        except FileNotFoundError:
            return False
        except OSError as error:
            raise self._error(error.strerror or str(error)) from error
        if not stat.S_ISSOCK(mode):
            what = "what is there is no socket, and is kept"
            raise SetupError(what, where=path, next="choose another path, or remove it")
        return True

    def _error(self, cause: str) -> SetupError:
        return SetupError(f"no socket can be made: {cause}", where=self.path, next="choose another path")


def _is_answered(path: str) -> bool:
    """Say whether anybody listens on a socket's file. One that cannot be asked counts as listened on."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as asking:
        return asking.connect_ex(path) not in (errno.ECONNREFUSED, errno.ENOENT)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold a folder's lock, which ends with this process. Raises SetupError where another does not let go."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    end_s = time.monotonic() + _LOCK_S_MAX
    try:
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if time.monotonic() > end_s:
                    raise SetupError(
                        "another program holds the folder's lock", where=str(folder), next="choose another folder"
                    ) from error
                time.sleep(_LOCK_LOOK_S)
        yield
    finally:
        os.close(descriptor)
