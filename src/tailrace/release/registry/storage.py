"""Where a registry lies: named objects, each written whole, in a directory or a bucket; the seam for both.

    registry.json                       that it is a registry, and of which format
    files/SHA256                        the files of versions, by content
    models/NAME/versions/NUMBER.json    a version is there once this object is
    models/NAME/aliases/ALIAS.json      which version an alias names
    models/NAME/tags/NUMBER/TAG.json    what is noted of a version later
    models/NAME/holds/NUMBER/ID.json    who needs a version, and until when
    models/NAME/deleted/NUMBER.json     a number that is not given again
    drafts/ID.json                      who is writing a version now, and of which files
    partial/WRITER.COUNT                what is not whole yet, where the place needs such
    collection.json                     that garbage is being collected

A bucket has no rename, so nothing relies on one: files come first, under their content, and then the one small object
that makes the version visible, created only where no other has that name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, NamedTuple, Protocol

READERS_MAX: Final = 8
"""Small objects that are read side by side."""
OBJECT_BYTES_MAX: Final = 1 << 20
"""Of every object but a version's files."""
CHUNK_BYTES: Final = 1 << 20

OnBytes = Callable[[int], None]
"""Is told of bytes as they are carried."""


class Found(NamedTuple):
    """An object in the listing. modified_s: when it was written, in seconds since 1970 by the storage's own clock."""

    key: str
    size_bytes: int
    modified_s: float


class Storage(Protocol):
    """Named objects. Keys are relative, with slashes. Every method raises OSError where the place fails."""

    url: str

    def find(self, prefix: str) -> list[Found]:
        """Return the objects whose key begins so, in order of their keys; none where there is no such place."""
        ...

    def look(self, key: str) -> Found:
        """Return an object as a listing has it, without the listing. Raises FileNotFoundError."""
        ...

    def read(self, key: str) -> bytes:
        """Return a small object. Raises FileNotFoundError; ValueError for one over `OBJECT_BYTES_MAX`."""
        ...

    def stream(self, key: str) -> Iterator[bytes]:
        """Give an object in parts. Raises FileNotFoundError."""
        ...

    def write(self, key: str, content: bytes) -> None:
        """Put a small object, in the place of one that is there; readers find one of the two."""
        ...

    def create(self, key: str, content: bytes) -> None:
        """Put a small object whole where there is none. Raises FileExistsError where there is one, for all but one."""
        ...

    def upload(self, key: str, path: Path, sha256: str, on_bytes: OnBytes) -> None:
        """Put a file whole. Raises OSError where its content has another sha256 by now.

        Where it fails, halfway or in the end, what the key had before is as it was: versions may have that file.
        """
        ...

    def delete(self, key: str) -> None:
        """Remove an object, if it is there."""
        ...


def read_all(storage: Storage, keys: Sequence[str]) -> dict[str, bytes | ValueError]:
    """Return small objects by their keys, read side by side; without those that are gone by now.

    In the place of one that is too large stands its error: one bad object is no fault of the others.
    """
    found: dict[str, bytes | ValueError] = {}

    def read(key: str) -> None:
        try:
            found[key] = storage.read(key)
        except FileNotFoundError:
            return
        except ValueError as error:
            found[key] = error

    with ThreadPoolExecutor(READERS_MAX, thread_name_prefix="registry") as threads:
        for _ in threads.map(read, keys):
            pass
    return {key: found[key] for key in keys if key in found}
