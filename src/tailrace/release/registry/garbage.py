"""What goes: a version that is deleted, and files that no version has.

Deleting and holding never miss each other: whoever deletes says so first and looks for holders then; whoever holds
writes the hold first and looks for a deletion then. One of the two sees the other, and steps back.

What is removed by its age is removed by the storage's own clock: this machine's may be ahead, and others' too.

Collecting and writing neither: whoever collects says so first and looks for drafts then; whoever writes makes the draft
first and waits then while something is collected.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Final

from tailrace.errors import RegistryError
from tailrace.release.registry.clocks import storage_time_s, uptime_s
from tailrace.release.registry.envelope import Trust
from tailrace.release.registry.holder import is_gone, own_name
from tailrace.release.registry.partial import sweep
from tailrace.release.registry.records import DeletedRecord, DraftRecord, decode, encode, to_seconds, to_text
from tailrace.release.registry.registering import COLLECTION, COLLECTION_S_MAX, DRAFTS, SILENCE_S_MAX, collector
from tailrace.release.registry.registry import (
    HOLDS,
    MODELS,
    TAGS,
    VERSIONS,
    Registry,
    deleted_key,
    file_key,
    user_here,
    version_key,
)
from tailrace.release.registry.storage import read_all

DRAFT_S: Final = 3_600.0
"""After this long without a sign, a writer of another machine is taken for dead."""
DRAFT_S_MIN: Final = 2 * SILENCE_S_MAX
SKEW_S_MAX: Final = 60.0
"""How far this machine's clock may be from the storage's before a collection warns."""


@dataclass(slots=True)
class Collected:
    """What a collection removed, and why it left the rest.

    bytes: of files. kept: a version that stays, with its holders, or what else keeps it.
    """

    versions: list[str] = field(default_factory=list)
    files: int = 0
    bytes: int = 0
    drafts: int = 0
    holds: int = 0
    kept: dict[str, list[str]] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Retention:
    """Which versions are garbage: all but the newest `keep` of a model, once they are this old. None: no version is."""

    keep: int | None = None
    older_than_s: float = 0.0


def delete(registry: Registry, name: str, number: int, now_s: float | None = None) -> None:
    """Delete a version; its files go with the next collection. Its number is not given again.

    now_s: the storage's time, where it is known.
    Raises RegistryError for a version that is not there, or that an alias or a hold needs.
    """
    with registry.told("written"):
        found = registry.storage.find(version_key(name, number))
    if not found:
        registry.version(name, number)  # which says what there is
    if now_s is None:
        with registry.told("written"):
            now_s = storage_time_s(registry.storage)
    _refuse_held(registry, name, number, now_s)
    try:
        digest = registry.version(name, number).record.digest
    except RegistryError:  # one that is damaged, or not trusted, can be deleted
        digest = ""
    deletion = encode(DeletedRecord(digest, to_text(registry.now_s()), user_here()))
    is_own = True
    with registry.told("written"):
        try:
            registry.storage.create(deleted_key(name, number), deletion)
        except FileExistsError:  # a deletion that was interrupted goes on, or another deletes it now
            is_own = False
        try:
            _refuse_held(registry, name, number, now_s)
        except RegistryError:
            if is_own:  # what another has said holds until that one takes it back
                registry.storage.delete(deleted_key(name, number))
            raise
        if not is_own and not registry.storage.find(deleted_key(name, number)):
            raise RegistryError(
                "another began to delete it and stepped back", where=f"{name}@{number}", next="see who holds it"
            )
        _finish(registry, name, number)


def collect(
    registry: Registry,
    retention: Retention | None = None,
    *,
    draft_s: float = DRAFT_S,
    term_s: float = COLLECTION_S_MAX / 2,
) -> Collected:
    """Remove what nobody needs: expired holds, versions by `retention`, drafts of dead writers, files of no version.

    draft_s: after how long without a sign a writer of another machine is dead; of this one it is known at once.
    term_s: after which the rest is left to the next time.
    Raises RegistryError: another collects, or the registry fails; ValueError for a `draft_s` that a living writer may
    take.
    """
    if draft_s < DRAFT_S_MIN:
        raise ValueError(f"a writer may be silent for {SILENCE_S_MAX:.0f} s; wait twice that at least")
    collected, until_s = Collected(), uptime_s() + term_s
    with registry.told("written"), _collecting(registry) as now_s:
        collected.warnings += _skew(registry.now_s() - now_s)
        _drop_holds(registry, now_s, collected)
        _drop_versions(registry, retention or Retention(), now_s, collected)
        needed = _drop_drafts(registry, now_s - draft_s, collected)
        recorded = _files_of_versions(registry, collected)
        if needed is not None and recorded is not None:
            _drop_files(registry, needed | recorded, until_s, collected)
        collected.drafts += sweep(registry.storage, lambda writer, last_s: is_gone(writer) or last_s < now_s - draft_s)
    return collected


def _skew(ahead_s: float) -> list[str]:
    """Warn of a clock here that is far from the storage's."""
    if abs(ahead_s) <= SKEW_S_MAX:
        return []
    way = "ahead of" if ahead_s > 0 else "behind"
    return [f"this machine's clock is {abs(ahead_s):.0f} s {way} the registry's, which counts: set it"]


@contextmanager
def _collecting(registry: Registry) -> Iterator[float]:
    """Say that garbage is collected; give the storage's own time. Raises RegistryError where another does."""
    storage = registry.storage
    content = encode(DraftRecord(own_name(), secrets.token_hex(8), ()))
    try:
        storage.create(COLLECTION, content)
    except FileExistsError:
        writer = collector(storage)
        began_s = storage.look(COLLECTION).modified_s
        if not is_gone(writer) and storage_time_s(storage) - began_s < COLLECTION_S_MAX:
            raise RegistryError(
                "another collects its garbage",
                where=registry.url,
                next=f"try again later; one that died is passed over after {COLLECTION_S_MAX / 60:.0f} minutes",
            ) from None
        storage.write(COLLECTION, content)
    try:
        yield storage.look(COLLECTION).modified_s
    finally:
        with suppress(OSError, ValueError):
            if storage.read(COLLECTION) == content:
                storage.delete(COLLECTION)


def _refuse_held(registry: Registry, name: str, number: int, now_s: float) -> None:
    if holders := registry.holders(name, number, now_s):
        raise RegistryError(
            f"the version is held by {'; '.join(holders)}",
            where=f"{name}@{number}",
            next="move or remove the alias (tailrace models alias), or wait until the hold is over",
        )


def _finish(registry: Registry, name: str, number: int) -> None:
    """Remove the record, then what is noted of it."""
    registry.storage.delete(version_key(name, number))
    for kind in (TAGS, HOLDS):
        for found in registry.storage.find(f"{MODELS}/{name}/{kind}/{number}/"):
            registry.storage.delete(found.key)


def _drop_holds(registry: Registry, now_s: float, collected: Collected) -> None:
    """Remove the holds whose time is over, and go on with deletions that were interrupted."""
    for name in registry.names():
        for alias, fault in registry.aliases(name).faults.items():
            collected.warnings.append(f"no version of {name!r} goes: {name}@{alias}: {fault}; set or remove the alias")
        for number in registry.numbers(name):
            holds = registry.holds(name, number)
            for hold_id, fault in holds.faults.items():
                key = f"{MODELS}/{name}/{HOLDS}/{number}/{hold_id}.json"
                collected.warnings.append(f"{name}@{number} stays: {key}: {fault}")
            for hold_id, record in holds.items():
                if to_seconds(record.until, f"{name}@{number}") <= now_s:
                    registry.storage.delete(f"{MODELS}/{name}/{HOLDS}/{number}/{hold_id}.json")
                    collected.holds += 1
        for number in set(registry.deleted(name)) & set(registry.numbers(name)):
            _try_delete(registry, name, number, now_s, collected)


def _drop_versions(registry: Registry, retention: Retention, now_s: float, collected: Collected) -> None:
    """Delete the versions that are garbage by the age of their records; those that are held stay."""
    if retention.keep is None:
        return
    for name in registry.names():
        written_s = {each.key: each.modified_s for each in registry.storage.find(f"{MODELS}/{name}/{VERSIONS}/")}
        for listed in registry.versions(name)[retention.keep :]:
            if listed.version is None:  # nobody knows what it is
                collected.warnings.append(f"{name}@{listed.number} stays: {listed.fault}")
                continue
            if written_s.get(version_key(name, listed.number), now_s) <= now_s - retention.older_than_s:
                _try_delete(registry, name, listed.number, now_s, collected)


def _try_delete(registry: Registry, name: str, number: int, now_s: float, collected: Collected) -> None:
    """Delete a version unless it is held; one that cannot be deleted is no reason to leave the others."""
    if holders := registry.holders(name, number, now_s):
        collected.kept[f"{name}@{number}"] = holders
        return
    try:
        delete(registry, name, number, now_s)
    except RegistryError as error:
        collected.kept[f"{name}@{number}"] = [error.what]
    else:
        collected.versions.append(f"{name}@{number}")


def _drop_drafts(registry: Registry, silent_since_s: float, collected: Collected) -> set[str] | None:
    """Remove the drafts of dead writers; return the keys of the files that living ones need; None: nobody knows."""
    storage, needed, is_known = registry.storage, set[str](), True
    found = {each.key: each for each in storage.find(f"{DRAFTS}/")}
    for key, content in read_all(storage, list(found)).items():
        writer = key.removeprefix(f"{DRAFTS}/").partition(".")[0]
        if is_gone(writer) or found[key].modified_s < silent_since_s:
            storage.delete(key)
            collected.drafts += 1
            continue
        try:
            needed.update(map(file_key, decode(content, DraftRecord, key).files))
        except RegistryError as error:
            collected.warnings.append(f"no file is removed: {key}: {error.what}; it goes once its writer is dead")
            is_known = False
    return needed if is_known else None


def _files_of_versions(registry: Registry, collected: Collected) -> set[str] | None:
    """Return the keys of the files that versions have; None where a record cannot be read, so that nobody knows."""
    keys: set[str] = set()
    for name in registry.names():
        numbers = registry.numbers(name)
        contents = read_all(registry.storage, [version_key(name, number) for number in numbers])
        for number in numbers:
            try:
                if (content := contents.get(version_key(name, number))) is not None:
                    record = registry.read(content, name, number, Trust()).record
                    keys.update(file_key(file.sha256) for file in record.files.values())
            except RegistryError as error:
                collected.warnings.append(f"no file is removed: {error.where}: {error.what}; delete that version first")
                return None
    return keys


def _drop_files(registry: Registry, needed: set[str], until_s: float, collected: Collected) -> None:
    """Remove the files that nobody needs, until the term is over."""
    for found in registry.storage.find(file_key("")):
        if found.key in needed:
            continue
        if uptime_s() > until_s:
            collected.warnings.append("the term is over; collect again for the rest")
            return
        registry.storage.delete(found.key)
        collected.files += 1
        collected.bytes += found.size_bytes
