"""What a server has pinned: its sources, and the release that comes of them. Written beside the copies."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec

from tailrace.inference.remote.described import Described

ID_CHARACTERS: Final = 12
PIN: Final = "pin-"
RELEASE: Final = "release-"


class Pin(msgspec.Struct, frozen=True, kw_only=True):
    """The sources of a release: where they are from, and where their copies are. All paths are absolute.

    root: the shelf's. folder: the server's own there. number: of the release, among the server's own. files: that
    declare pipelines. folders: theirs, with the copies of their modules.
    """

    root: str
    folder: str
    number: int
    files: tuple[str, ...]
    folders: tuple[tuple[str, str], ...]

    def copy_of(self, file: str) -> str:
        """Return the copy of a file's folder."""
        return dict(self.folders)[os.path.dirname(file)]

    @property
    def pin_file(self) -> Path:
        """Where the pin itself is written."""
        return self._file(f"{PIN}{self.number}.json")

    @property
    def release_file(self) -> Path:
        """Where the release is written, once it is settled."""
        return self._file(f"{RELEASE}{self.number}.json")

    @property
    def served_file(self) -> Path:
        """What is there once a worker has been warm: a later one is a successor."""
        return self._file(f"served-{self.number}")

    def _file(self, name: str) -> Path:
        return Path(self.folder) / name


class PinnedModel(msgspec.Struct, frozen=True, kw_only=True):
    """A packaged model of a release. directory: where it was declared, or the registry; copy: where it is served from.

    version: the first characters of the digest of its files, as the manifest has them; the copy is named by the digest
    of the manifest itself. registered: the version in a registry that it is, as `fraud@3`, and registered_digest: of
    what that version holds, in hex, as the registry has it; both "" for a directory.
    backend: computes it, as was chosen when the release was made; backend_reason: why it is no faster one, or could not
    be compared.
    """

    pipeline: str
    name: str
    version: str
    directory: str
    copy: str
    backend: str
    backend_reason: str
    registered: str = ""
    registered_digest: str = ""


class PinnedRemote(msgspec.Struct, frozen=True, kw_only=True):
    """A remote model of a release, as its server described it when the release was made.

    sent: the digest of what the server said that changes what it is sent: part of the release's id.
    """

    pipeline: str
    name: str
    url: str
    described: Described
    sent: str = ""


class Release(msgspec.Struct, frozen=True, kw_only=True):
    """What a server serves. id: the digest of its sources, models and Tailrace's version, and of what `sent` tells.

    schemas: the digest of each pipeline's request, response and views, by its name.
    """

    id: str
    models: tuple[PinnedModel, ...]
    schemas: dict[str, str]
    remotes: tuple[PinnedRemote, ...] = ()


def pinned_as(release: str, folder: Path) -> Iterator[tuple[Pin, Release]]:
    """Give what a server's folder has pinned that is a release, the newest first; what cannot be read is left out."""
    for file in sorted(folder.glob(f"{RELEASE}*.json"), reverse=True):
        with suppress(OSError, msgspec.DecodeError):
            settled = msgspec.json.decode(file.read_bytes(), type=Release)
            if settled.id == release:
                pin_file = file.with_name(f"{PIN}{file.stem.removeprefix(RELEASE)}.json")
                yield msgspec.json.decode(pin_file.read_bytes(), type=Pin), settled


def write_whole(file: Path, value: msgspec.Struct) -> None:
    """Write a file whole, or not at all, also where the power fails."""
    draft = file.with_name(f".{file.name}")
    with draft.open("wb") as opened:
        opened.write(msgspec.json.encode(value))
        opened.flush()
        os.fsync(opened.fileno())
    draft.rename(file)
