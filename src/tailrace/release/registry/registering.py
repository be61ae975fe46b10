"""A model directory made into a version: the files first, under their content, then the record that makes it visible.

Of a writer that ends before the record nobody sees anything; its draft says which files are garbage then. Two writers
at once create two records, since each is created only where there is none.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import stat
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Final

from tailrace.errors import RegistryError
from tailrace.inference.manifest import Manifest
from tailrace.inference.model_directory import file_sha256, read_manifest, read_while_replaced
from tailrace.release.registry.clocks import uptime_s
from tailrace.release.registry.envelope import Signer, seal
from tailrace.release.registry.holder import is_gone, own_name
from tailrace.release.registry.records import (
    FILES_MAX,
    FORMAT,
    DraftRecord,
    FileRecord,
    Lineage,
    VersionRecord,
    check_file_name,
    decode,
    digest_of,
    encode,
    to_text,
)
from tailrace.release.registry.reference import check_name
from tailrace.release.registry.registry import Registry, Version, deleted_key, file_key, user_here, version_key
from tailrace.release.registry.storage import READERS_MAX, Storage, read_all
from tailrace.version import VERSION

DRAFTS: Final = "drafts"
COLLECTION: Final = "collection.json"
COLLECTION_S_MAX: Final = 600.0
"""How long a collection may take: one that began longer ago has died."""
BEAT_S: Final = 60.0
"""How often a writer says that it is still there."""
SILENCE_S_MAX: Final = 300.0
"""A writer that has not said so for this long gives up: its files may be gone."""
_WAIT_S_MAX: Final = 660.0
_WAIT_STEP_S: Final = 1.0
_NUMBERS_TRIED_MAX: Final = 1_000

OnProgress = Callable[[str, int, int], None]
"""Is told of the file that is carried, the bytes done of all files, and the bytes of all."""


class Draft:
    """The note that a version is being written, so that its files are not collected meanwhile."""

    def __init__(self, storage: Storage, name: str, files: dict[str, FileRecord]) -> None:
        self.id = f"{own_name()}.{secrets.token_hex(8)}"
        self.key = f"{DRAFTS}/{self.id}.json"
        self._storage = storage
        hashes = tuple(sorted({file.sha256 for file in files.values()}))
        self._content = encode(DraftRecord(own_name(), name, hashes))
        self._last_s = 0.0

    def beat(self) -> None:
        """Write it, or again where the last time is a while ago. Raises OSError; TimeoutError after a long silence."""
        now_s = uptime_s()
        if self._last_s:
            self.check()
        if not self._last_s or now_s - self._last_s > BEAT_S:
            self._storage.write(self.key, self._content)
            self._last_s = now_s

    def check(self) -> None:
        """Raise TimeoutError where the last time is so long ago that it passes for a dead one's."""
        if uptime_s() - self._last_s > SILENCE_S_MAX:
            raise TimeoutError("the writing stood still for so long that its files may be collected by now")

    def end(self) -> None:
        """Remove it."""
        with suppress(OSError):  # a collection removes it later
            self._storage.delete(self.key)


def register(
    registry: Registry,
    directory: Path,
    name: str,
    *,
    lineage: Lineage | None = None,
    signer: Signer | None = None,
    on_progress: OnProgress = lambda file, done, whole: None,
) -> Version:
    """Make a model directory the next version of a model.

    Raises ModelPackageError for a directory that is no model's, or not whole; RegistryError where the registry fails,
    and then nothing is visible.
    """
    check_name(name)
    manifest, files = read_while_replaced(directory, lambda: (read_manifest(directory), list_files(directory)))
    draft = Draft(registry.storage, name, files)
    with registry.told("written"):
        try:
            draft.beat()
            _wait_for_collection(registry, draft)
            _upload(registry, directory, files, draft, on_progress)
            _check_there(registry, files, draft)
            version = _number(registry, _record(manifest, name, files, lineage, registry, draft), signer, draft)
        finally:
            draft.end()
    return version


def list_files(directory: Path) -> dict[str, FileRecord]:
    """Return the files of a directory, and of those within it. Raises RegistryError for what is no plain file."""
    files: dict[str, FileRecord] = {}
    for path in sorted(directory.rglob("*")):
        mode, name = path.lstat().st_mode, path.relative_to(directory).as_posix()
        if stat.S_ISDIR(mode):
            continue
        try:
            check_file_name(name)
            if not stat.S_ISREG(mode):
                raise ValueError(f"{name!r} is a link or no file")
        except ValueError as error:
            raise RegistryError(str(error), where=str(directory), next="leave it out of the model directory") from error
        files[name] = FileRecord(file_sha256(path), path.stat().st_size)
        if len(files) > FILES_MAX:
            raise RegistryError(f"it has over {FILES_MAX} files", where=str(directory), next="is it a model directory?")
    return files


def _record(
    manifest: Manifest,
    name: str,
    files: dict[str, FileRecord],
    lineage: Lineage | None,
    registry: Registry,
    draft: Draft,
) -> VersionRecord:
    """Return the record, with its number yet to be found."""
    return VersionRecord(
        format=FORMAT,
        name=name,
        number=0,
        created=to_text(registry.now_s()),
        digest=digest_of(files),
        files=files,
        framework=" ".join(filter(None, (manifest.source.framework, manifest.source.version))),
        metrics=manifest.metrics,
        lineage=lineage or Lineage(),
        by=user_here(),
        tailrace=VERSION,
        draft=draft.id,
    )


def _upload(
    registry: Registry, directory: Path, files: dict[str, FileRecord], draft: Draft, on_progress: OnProgress
) -> None:
    """Put the files under their content. One that is there, and whole, is left alone: a damaged one is healed."""
    whole, done = sum(file.size_bytes for file in files.values()), 0
    for name, file in files.items():

        def carried(count: int, name: str = name) -> None:
            nonlocal done
            done += count
            draft.beat()
            on_progress(name, done, whole)

        on_progress(name, done, whole)
        if _is_whole(registry.storage, file, draft):
            carried(file.size_bytes)
            continue
        registry.storage.upload(file_key(file.sha256), directory / name, file.sha256, carried)


def _is_whole(storage: Storage, file: FileRecord, draft: Draft) -> bool:
    """Say whether a file is there as it should be, by reading it."""
    key, digest = file_key(file.sha256), hashlib.sha256()
    try:
        if storage.look(key).size_bytes != file.size_bytes:
            return False
        for chunk in storage.stream(key):
            digest.update(chunk)
            draft.beat()
    except FileNotFoundError:
        return False
    return digest.hexdigest() == file.sha256


def _check_there(registry: Registry, files: dict[str, FileRecord], draft: Draft) -> None:
    """Raise RegistryError unless every file is there in its size, just before the record says so."""

    def is_there(file: FileRecord) -> bool:
        try:
            return registry.storage.look(file_key(file.sha256)).size_bytes == file.size_bytes
        except FileNotFoundError:
            return False

    with ThreadPoolExecutor(READERS_MAX, thread_name_prefix="registry") as threads:
        for name, there in zip(files, threads.map(is_there, files.values()), strict=True):
            draft.beat()
            if not there:
                raise RegistryError(
                    "the file was removed or cut short by another while the version was written",
                    where=f"{name} in {registry.url}",
                    next="register it again",
                )


def _number(registry: Registry, record: VersionRecord, signer: Signer | None, draft: Draft) -> Version:
    """Give the record the next number that is free, and create it: from then on the version is there."""
    import msgspec

    name = record.name
    number = max(registry.numbers(name) + registry.deleted(name), default=0)
    for _ in range(_NUMBERS_TRIED_MAX):
        number += 1
        numbered = msgspec.structs.replace(record, number=number)
        content, key = seal(encode(numbered), signer), version_key(name, number)
        draft.beat()
        try:
            registry.storage.create(key, content)
        except FileExistsError:
            if read_all(registry.storage, [key]).get(key) != content:  # else the answer to our first try was lost
                continue
        if registry.storage.find(deleted_key(name, number)):  # another has had the number, and is gone
            registry.storage.delete(key)
            continue
        try:
            draft.check()
        except TimeoutError:  # the machine slept between the files and the record
            registry.storage.delete(key)
            raise
        return Version(numbered, "" if signer is None else signer.key_id)
    raise RegistryError("others take every number", where=f"{name} in {registry.url}", next="try again")


def _wait_for_collection(registry: Registry, draft: Draft) -> None:
    """Wait while garbage is collected by one who may not have seen the draft. Raises RegistryError in the end."""
    until_s = time.monotonic() + _WAIT_S_MAX
    while collection_runs(registry.storage, draft.key):
        if time.monotonic() > until_s:
            raise RegistryError("garbage is collected without an end", where=registry.url, next="try again later")
        time.sleep(_WAIT_STEP_S)
        draft.beat()


def collection_runs(storage: Storage, own_key: str) -> bool:
    """Say whether garbage is being collected. own_key: of what was written just now, for the storage's own time."""
    try:
        writer, began, now = collector(storage), storage.look(COLLECTION), storage.look(own_key)
    except FileNotFoundError:
        return False
    return not is_gone(writer) and now.modified_s - began.modified_s < COLLECTION_S_MAX


def collector(storage: Storage) -> str:
    """Return who collects; "", of whom nobody knows whether it is gone, where that cannot be read.

    Raises FileNotFoundError where nobody does.
    """
    try:
        return decode(storage.read(COLLECTION), DraftRecord, COLLECTION).writer
    except (ValueError, RegistryError):
        return ""


def data_sha256(path: Path) -> str:
    """Return the sha256 of a data file, in hex. Raises RegistryError where it cannot be read."""
    try:
        return file_sha256(path)
    except OSError as error:
        raise RegistryError(
            f"the data cannot be read: {error.strerror}", where=os.fspath(path), next="name the file trained on"
        ) from error
