"""What a registry writes down of versions, aliases, holds, deletions and drafts: JSON, with times in RFC 3339, UTC."""

from __future__ import annotations

import hashlib
import re
from datetime import UTC, datetime
from typing import Any, Final, TypeVar

import msgspec

from tailrace.errors import RegistryError

FORMAT: Final = 1
FILES_MAX: Final = 1_000
"""Files of one version."""
MOVES_KEPT: Final = 20
"""Of an alias."""
_SHA256: Final = re.compile(r"[0-9a-f]{64}")
_FILE_NAME_BYTES_MAX: Final = 255

Kind = TypeVar("Kind", bound=msgspec.Struct)


class FileRecord(msgspec.Struct, frozen=True):
    """One file of a version. sha256: in hex."""

    sha256: str
    size_bytes: int


class Lineage(msgspec.Struct, frozen=True, kw_only=True):
    """What a version was made from; each part may be empty.

    parents: versions, each as `fraud@2`, with their digests. source: another registry's version that it is.
    data: the file that it was trained on, as it was named. data_sha256: of that file. command: that made it.
    code: the version of the code that made it, such as a commit.
    """

    parents: dict[str, str] = {}
    source: str = ""
    data: str = ""
    data_sha256: str = ""
    command: str = ""
    code: str = ""


class FormatRecord(msgspec.Struct, frozen=True):
    """That a place is a registry. format: of all that is written there."""

    format: int


class VersionRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A version: it never changes.

    digest: of the names, sizes and sha256 of its files, in hex. files: by their names in the model directory.
    by: user and machine that registered it. tailrace: the version that did. framework, metrics: of its manifest.
    draft: the name of the writing, which no other has.
    """

    format: int
    name: str
    number: int
    created: str
    digest: str
    files: dict[str, FileRecord]
    framework: str
    metrics: dict[str, float | int | str]
    lineage: Lineage
    by: str
    tailrace: str
    draft: str

    @property
    def reference(self) -> str:
        """How it is called: `fraud@3`."""
        return f"{self.name}@{self.number}"

    @property
    def size_bytes(self) -> int:
        """The bytes of all its files."""
        return sum(file.size_bytes for file in self.files.values())

    def check(self, name: str, number: int) -> None:
        """Raise ValueError unless it is the version of that name and number, and its files can be trusted by name.

        A record may come from whoever can write to the bucket: a file's name must not lead out of the directory, and
        its sha256 not out of the registry's files.
        """
        if self.format != FORMAT:
            raise ValueError(f"it has format {self.format}; this Tailrace reads format {FORMAT}")
        if (self.name, self.number) != (name, number):
            raise ValueError(f"it is the record of {self.reference}")
        if not 0 < len(self.files) <= FILES_MAX:
            raise ValueError(f"it has {len(self.files)} files; 1 to {FILES_MAX} are possible")
        for file, found in self.files.items():
            check_file_name(file)
            if not _SHA256.fullmatch(found.sha256) or found.size_bytes < 0:
                raise ValueError(f"its file {file!r} has no sha256 or no size")
        if digest_of(self.files) != self.digest:
            raise ValueError("its digest is not that of its files")


class Move(msgspec.Struct, frozen=True):
    """An alias was made to name a version."""

    number: int
    time: str
    by: str


class AliasRecord(msgspec.Struct, frozen=True):
    """Which version an alias names, and the last moves, the latest first."""

    number: int
    moves: tuple[Move, ...]


class TagRecord(msgspec.Struct, frozen=True):
    """What is noted of a version."""

    value: str
    time: str
    by: str


class HoldRecord(msgspec.Struct, frozen=True):
    """Who needs a version, why, and until when (RFC 3339, UTC): until then it is neither deleted nor collected."""

    holder: str
    why: str
    until: str


class DeletedRecord(msgspec.Struct, frozen=True):
    """A version that was deleted: its number is not given again."""

    digest: str
    time: str
    by: str


class DraftRecord(msgspec.Struct, frozen=True):
    """A version that is being written. writer: see holder.py. files: the sha256 of those that it will have."""

    writer: str
    name: str
    files: tuple[str, ...]


def check_file_name(name: str) -> None:
    """Raise ValueError for a name that is no file's under a directory, by slashes, or that a terminal would obey."""
    parts = name.split("/")
    if (
        any(part in {"", ".", ".."} or part != part.strip() for part in parts)
        or "\\" in name
        or not name.isprintable()
        or len(name.encode("utf-8", "surrogatepass")) > _FILE_NAME_BYTES_MAX
    ):
        raise ValueError(f"{name!r} is no name of a file in a directory")


def digest_of(files: dict[str, FileRecord]) -> str:
    """Return the sha256 of the names, sizes and sha256 of files, in hex: that of the whole version."""
    listed = [[name, files[name].size_bytes, files[name].sha256] for name in sorted(files)]
    return hashlib.sha256(msgspec.json.encode(listed)).hexdigest()


def encode(record: msgspec.Struct) -> bytes:
    """Return a record as indented JSON."""
    return msgspec.json.format(msgspec.json.encode(record), indent=1) + b"\n"


def decode(content: bytes | ValueError, kind: type[Kind], where: str) -> Kind:
    """Return the record in bytes. Raises RegistryError where they are none, or for the error of reading."""
    if isinstance(content, ValueError):
        raise damaged(where, str(content)) from content
    try:
        return msgspec.json.decode(content, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise damaged(where, str(error)) from error


def damaged(where: str, what: str) -> RegistryError:
    """Return the error of something in a registry that is not what was written."""
    return RegistryError(
        f"it was cut short or altered: {what}", where=where, next="see who writes there; register the version again"
    )


def to_text(seconds: float) -> str:
    """Return a time in seconds since 1970 as RFC 3339, UTC."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


def to_seconds(text: Any, where: str) -> float:
    """Return a time as seconds since 1970. Raises RegistryError for a text that is none."""
    try:
        return datetime.fromisoformat(text).timestamp()
    except (ValueError, TypeError, OverflowError) as error:
        raise damaged(where, f"{text!r} is no time") from error
