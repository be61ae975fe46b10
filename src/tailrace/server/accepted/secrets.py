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

    base_dir: that a relative path of a file begins at. A file that cannot be read later leaves them as they were.
    """

    def __init__(self, destination: Destination, base_dir: Path, where: str, log: Any) -> None:
        self._where = where
        self._log = log
        self._file = None if destination.secret_file is None else base_dir / destination.secret_file
        self._variable = destination.secret_env or ""
        self._seen = (0, 0)
        self._secrets = self._read()

    def now(self) -> tuple[bytes, ...]:
        """Return the secrets of now."""
        if self._file is not None:
            try:
                if self._look(self._file) != self._seen:
                    self._secrets = self._read()
            except (SetupError, OSError) as error:
                self._log.warning("a secret cannot be read again", cause=str(error))
        return self._secrets

    def _look(self, file: Path) -> tuple[int, int]:
        status = file.stat()
        return status.st_mtime_ns, status.st_ino

    def _read(self) -> tuple[bytes, ...]:
        source = self._variable or str(self._file)
        try:
            if self._file is None:
                text = os.environ.get(self._variable, "")
            else:
                self._seen = self._look(self._file)
                with self._file.open(encoding="ascii") as file:
                    text = file.read(SECRET_FILE_BYTES_MAX)
            return read_secrets(text)
        except (OSError, ValueError) as error:
            what = error.strerror if isinstance(error, OSError) else str(error)
            raise SetupError(
                f"no secret to sign results with in {source}: {what}", where=self._where,
                next="set it; to change it, put the old and the new one there, with a blank between",
            ) from None  # fmt: skip
