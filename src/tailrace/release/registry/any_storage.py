"""A registry at any other URL that fsspec knows, such as gs:// or az://.

Its file system must create an object only where there is none (`mode="create"`); whoever writes tries that first.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from tailrace.errors import RegistryError
from tailrace.release.registry.partial import partial_key
from tailrace.release.registry.storage import CHUNK_BYTES, OBJECT_BYTES_MAX, Found, OnBytes

_MODIFIED: Final = ("LastModified", "last_modified", "updated", "mtime", "created")
"""Where file systems say when an object was written."""


class AnyStorage:
    """Objects under a path of one of fsspec's file systems. Credentials are found as that finds them."""

    def __init__(self, url: str) -> None:
        try:
            import fsspec
        except ImportError as error:
            raise RegistryError(
                "a registry at such a URL needs fsspec", where=url, next="pip install 'tailrace[registry]'"
            ) from error
        try:
            self._files, root = fsspec.core.url_to_fs(url)
        except (ImportError, ValueError) as error:
            raise RegistryError(
                f"fsspec cannot open it: {error}", where=url, next="name a URL that fsspec knows"
            ) from error
        self._root = root.rstrip("/")
        self.url = url

    def find(self, prefix: str) -> list[Found]:
        """Return the objects whose key begins so; see `Storage`."""
        folder = self._at(prefix).rpartition("/")[0]
        with self._asked():
            self._files.invalidate_cache()
            listed: dict[str, Any] = self._files.find(folder, detail=True)
        found = [
            Found(path.removeprefix(f"{self._root}/"), info["size"], _modified(info)) for path, info in listed.items()
        ]
        return sorted(each for each in found if each.key.startswith(prefix))

    def look(self, key: str) -> Found:
        """Return an object as a listing has it."""
        with self._asked():
            self._files.invalidate_cache()
            info = self._files.info(self._at(key))
        if info["type"] != "file":
            raise FileNotFoundError(f"{key} is no object")
        return Found(key, info["size"], _modified(info))

    def read(self, key: str) -> bytes:
        """Return a small object."""
        with self._asked(), self._files.open(self._at(key), "rb") as file:
            content: bytes = file.read(OBJECT_BYTES_MAX + 1)
        if len(content) > OBJECT_BYTES_MAX:
            raise ValueError(f"it has over {OBJECT_BYTES_MAX} bytes")
        return content

    def stream(self, key: str) -> Iterator[bytes]:
        """Give an object in parts."""
        with self._asked():
            file = self._files.open(self._at(key), "rb")
        with file:
            while True:
                with self._asked():
                    chunk: bytes = file.read(CHUNK_BYTES)
                if not chunk:
                    return
                yield chunk

    def write(self, key: str, content: bytes) -> None:
        """Put an object in the place of another."""
        with self._asked():
            self._make_folder(key)
            self._files.pipe_file(self._at(key), content)

    def create(self, key: str, content: bytes) -> None:
        """Put an object where there is none."""
        with self._asked():
            self._make_folder(key)
            self._files.pipe_file(self._at(key), content, mode="create")

    def upload(self, key: str, path: Path, sha256: str, on_bytes: OnBytes) -> None:
        """Put a file beside its place, since many file systems keep what was written before an error; then copy it."""
        draft = partial_key()
        try:
            if self._send(draft, path, on_bytes) != sha256:
                raise OSError(f"{path} was altered while it was read")
            with self._asked():
                self._make_folder(key)
                self._files.cp_file(self._at(draft), self._at(key))
        finally:
            with suppress(OSError):  # a collection removes it later
                self.delete(draft)

    def _send(self, key: str, path: Path, on_bytes: OnBytes) -> str:
        """Put a file; return the sha256 of what was sent, in hex."""
        digest = hashlib.sha256()
        with self._asked():
            self._make_folder(key)
            with path.open("rb") as source, self._files.open(self._at(key), "wb") as target:
                while chunk := source.read(CHUNK_BYTES):
                    digest.update(chunk)
                    target.write(chunk)
                    on_bytes(len(chunk))
        return digest.hexdigest()

    def delete(self, key: str) -> None:
        """Remove an object, if it is there."""
        try:
            with self._asked():
                self._files.rm_file(self._at(key))
        except FileNotFoundError:
            return

    def _at(self, key: str) -> str:
        return f"{self._root}/{key}"

    def _make_folder(self, key: str) -> None:
        """Make the folder of a key, where the file system has such."""
        self._files.makedirs(self._at(key).rpartition("/")[0], exist_ok=True)

    @contextmanager
    def _asked(self) -> Iterator[None]:
        """Raise OSError for whatever a file system raises; some raise their client's own errors."""
        try:
            yield
        except (OSError, RegistryError):
            raise
        except Exception as error:  # each file system has its client's own
            raise OSError(f"{type(error).__name__}: {error}") from error


def _modified(info: dict[str, Any]) -> float:
    """Return when an object was written; now where that is not told, so that it is never taken for old."""
    for name in _MODIFIED:
        value = info.get(name)
        if isinstance(value, datetime):
            return value.timestamp()
        if isinstance(value, str):
            return datetime.fromisoformat(value).timestamp()
        if isinstance(value, int | float):
            return float(value)
    return time.time()
