"""The secrets that results are signed with: from a variable, or from a file that is read again when it changes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Final

from tailrace.errors import SetupError
from tailrace.response.destinations import Destination
from tailrace.signature import read_secrets

SECRET_FILE_BYTES_MAX: Final = 4_096


class Secrets:
    """The secrets of one destination. Raises SetupError, which shows nothing of them, where there are none yet.

    base_dir: that a relative path of a file begins at. A file that cannot be read later leaves them as they were, and
    is tried again each time.
    """

    def __init__(self, destination: Destination, base_dir: Path, where: str, log: Any) -> None:
        self._where = where
        self._log = log
        self._file = None if destination.secret_file is None else base_dir / destination.secret_file
        self._variable = destination.secret_env or ""
        self._seen = self._failed = (0, 0, 0)
        self._secrets = self._read()

    def now(self) -> tuple[bytes, ...]:
        """Return the secrets of now."""
        if self._file is not None:
            stamp = self._look(self._file)
            if stamp != self._seen:
                self._read_again(stamp)
        return self._secrets

    def _read_again(self, stamp: tuple[int, int, int]) -> None:
        """Read the file as it is now; one that cannot be read is told of once."""
        try:
            self._secrets = self._read()
        except SetupError as error:
            if stamp != self._failed:
                self._failed = stamp
                self._log.warning("a secret cannot be read again", cause=str(error))

    def _look(self, file: Path) -> tuple[int, int, int]:
        """Return what changes when the file is written; zeros where it is gone."""
        try:
            status = file.stat()
        except OSError:
            return 0, 0, 0
        return status.st_mtime_ns, status.st_size, status.st_ino

    def _read(self) -> tuple[bytes, ...]:
        source = self._variable or str(self._file)
        seen = self._seen if self._file is None else self._look(self._file)
        try:
            if self._file is None:
                text = os.environ.get(self._variable, "")
            else:
                with self._file.open(encoding="ascii") as file:
                    text = file.read(SECRET_FILE_BYTES_MAX)
            secrets = read_secrets(text)
        except (OSError, ValueError) as error:
            what = error.strerror if isinstance(error, OSError) else str(error)
            raise SetupError(
                f"no secret to sign results with in {source}: {what}", where=self._where,
                next="set it; to change it, put the old and the new one there, with a blank between",
            ) from None  # fmt: skip
        self._seen = seen
        return secrets
