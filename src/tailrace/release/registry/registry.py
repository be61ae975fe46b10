"""The registry as it is read: which models, versions, aliases, tags and holds there are. Writing has files of its own.

A version is there once its record is, which comes last and is created in one step (storage.py); so a reader finds all
of a version or nothing. Nothing that is read is believed: a record is held against its name, its number, its digest
and, where keys are trusted, its signature; a file against its sha256 (fetching.py).
"""

from __future__ import annotations

import errno
import getpass
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, NamedTuple, TypeVar

import msgspec

from tailrace.errors import RegistryError
from tailrace.release.registry.envelope import Trust, unseal
from tailrace.release.registry.opening import open_storage
from tailrace.release.registry.records import (
    FORMAT,
    AliasRecord,
    DeletedRecord,
    FormatRecord,
    HoldRecord,
    TagRecord,
    VersionRecord,
    damaged,
    decode,
    to_seconds,
)
from tailrace.release.registry.reference import Reference, is_name
from tailrace.release.registry.storage import Storage, read_all

FORMAT_KEY: Final = "registry.json"
VERSIONS: Final = "versions"
ALIASES: Final = "aliases"
TAGS: Final = "tags"
HOLDS: Final = "holds"
DELETED: Final = "deleted"
MODELS: Final = "models"
_FULL: Final = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}

Kind = TypeVar("Kind", bound=msgspec.Struct)


class Version(NamedTuple):
    """A version as it was read.

    key_id: of the trusted key that has signed it; "" where none is trusted. claimed_id: of the key that it says has.
    """

    record: VersionRecord
    key_id: str
    claimed_id: str = ""


@dataclass(frozen=True, slots=True)
class Listed:
    """A number of a model in a list. version: None where it cannot be read, or is not trusted, and `fault` says why."""

    number: int
    version: Version | None
    fault: str


class Noted(dict[str, Kind]):
    """Records of one kind by their names. faults: why others cannot be read, so that nobody knows what they say."""

    def __init__(self) -> None:
        super().__init__()
        self.faults: dict[str, str] = {}


class Registry:
    """One registry, to read. trust: whose versions are taken. now_s: this machine's time, in seconds since 1970."""

    def __init__(self, storage: Storage, trust: Trust | None = None, now_s: Callable[[], float] = time.time) -> None:
        self.storage = storage
        self.trust = trust or Trust()
        self.now_s = now_s

    @property
    def url(self) -> str:
        """Where it is."""
        return self.storage.url

    @contextmanager
    def told(self, action: str = "read") -> Iterator[None]:
        """Raise RegistryError for what its place refuses meanwhile."""
        try:
            yield
        except OSError as error:
            raise _error_of(error, action, self.url) from error

    def names(self) -> list[str]:
        """Return the names of the models that have a version, or had one; what else lies there is passed over."""
        with self.told():
            names = {found.key.split("/")[1] for found in self.storage.find(f"{MODELS}/")}
        return sorted(filter(is_name, names))

    def numbers(self, name: str) -> list[int]:
        """Return the numbers of a model's versions."""
        return self._numbers(name, VERSIONS)

    def deleted(self, name: str) -> list[int]:
        """Return the numbers of a model's versions that were deleted."""
        return self._numbers(name, DELETED)

    def versions(self, name: str) -> list[Listed]:
        """Return a model's versions, the newest first; also those that cannot be read."""
        numbers = self.numbers(name)
        with self.told():
            found = read_all(self.storage, [version_key(name, number) for number in numbers])
        listed = []
        for number in reversed(numbers):
            content = found.get(version_key(name, number))
            if content is None:  # it was deleted meanwhile
                continue
            try:
                listed.append(Listed(number, self.read(content, name, number, self.trust), ""))
            except RegistryError as error:
                listed.append(Listed(number, None, error.what))
        return listed

    def version(self, name: str, number: int) -> Version:
        """Return a version. Raises RegistryError: there is none, it is altered, or no trusted key has signed it."""
        with self.told():
            try:
                content = self.storage.read(version_key(name, number))
            except FileNotFoundError:
                raise self._absent(name, number) from None
            except ValueError as error:
                raise damaged(f"{name}@{number}", str(error)) from error
        return self.read(content, name, number, self.trust)

    def read(self, content: bytes | ValueError, name: str, number: int, trust: Trust) -> Version:
        """Return the version in an envelope. Raises RegistryError, also for what could not be read."""
        where = f"{name}@{number}"
        try:
            if isinstance(content, ValueError):
                raise content
            payload, key_id, claimed_id = unseal(content, trust)
            record = decode(payload, VersionRecord, where)
            record.check(name, number)
        except ValueError as error:
            raise damaged(where, str(error)) from error
        except PermissionError as error:
            raise RegistryError(
                str(error), where=where, next="have it registered with --sign-key, or trust the key that signed it"
            ) from error
        return Version(record, key_id, claimed_id)

    def resolve(self, reference: Reference) -> Version:
        """Return the version that a reference names now. Raises RegistryError as `version` does, or for an alias."""
        if reference.alias is None:
            assert reference.number is not None
            return self.version(reference.name, reference.number)
        found = self._note(f"{MODELS}/{reference.name}/{ALIASES}/{reference.alias}.json", AliasRecord)
        if found is None:
            aliases = ", ".join(self.aliases(reference.name))
            raise RegistryError(
                f"the model {reference.name!r} has no alias {reference.alias!r}",
                where=self.url,
                next=f"its aliases are {aliases}" if aliases else f"set it: tailrace models alias {reference} NUMBER",
            )
        return self.version(reference.name, found.number)

    def aliases(self, name: str) -> Noted[AliasRecord]:
        """Return a model's aliases."""
        return self._notes(f"{MODELS}/{name}/{ALIASES}/", AliasRecord)

    def tags(self, name: str, number: int) -> Noted[TagRecord]:
        """Return a version's tags."""
        return self._notes(f"{MODELS}/{name}/{TAGS}/{number}/", TagRecord)

    def holds(self, name: str, number: int) -> Noted[HoldRecord]:
        """Return who holds a version, by the ids of the holds; also those whose time is over."""
        found = self._notes(f"{MODELS}/{name}/{HOLDS}/{number}/", HoldRecord)
        for hold_id, record in list(found.items()):
            try:
                to_seconds(record.until, hold_id)
            except RegistryError as error:
                found.faults[hold_id] = error.what
                del found[hold_id]
        return found

    def holders(self, name: str, number: int, now_s: float | None = None) -> list[str]:
        """Say who needs a version: aliases that name it, and holds whose time is not over; what cannot be read may.

        now_s: the time that counts; this machine's without it, which is good enough to tell of.
        """
        now_s = self.now_s() if now_s is None else now_s
        aliases, held = self.aliases(name), self.holds(name, number)
        named = [f"the alias {alias!r}" for alias, record in aliases.items() if record.number == number]
        named += [f"the alias {alias!r}, which cannot be read" for alias in aliases.faults]
        holds = [
            f"{record.holder} until {record.until} ({record.why})"
            for record in held.values()
            if to_seconds(record.until, f"{name}@{number}") > now_s
        ]
        return named + holds + [f"the hold {hold_id!r}, which cannot be read" for hold_id in held.faults]

    def _numbers(self, name: str, kind: str) -> list[int]:
        prefix = f"{MODELS}/{name}/{kind}/"
        with self.told():
            stems = [found.key.removeprefix(prefix).removesuffix(".json") for found in self.storage.find(prefix)]
        return sorted(int(stem) for stem in stems if stem.isascii() and stem.isdigit())

    def _note(self, key: str, kind: type[Kind]) -> Kind | None:
        """Return a record; None where there is none."""
        with self.told():
            try:
                return decode(self.storage.read(key), kind, key)
            except FileNotFoundError:
                return None
            except ValueError as error:
                raise damaged(key, str(error)) from error

    def _notes(self, prefix: str, kind: type[Kind]) -> Noted[Kind]:
        """Return the records under a prefix, by their names."""
        with self.told():
            found = read_all(self.storage, [each.key for each in self.storage.find(prefix)])
        noted = Noted[Kind]()
        for key, content in found.items():
            if not is_name(name := key.removeprefix(prefix).removesuffix(".json")):
                continue
            try:
                noted[name] = decode(content, kind, key)
            except RegistryError as error:
                noted.faults[name] = error.what
        return noted

    def _absent(self, name: str, number: int) -> RegistryError:
        """Return the error of a version that is not there."""
        record = self._note(deleted_key(name, number), DeletedRecord)
        if record is not None:
            what = f"the version was deleted at {record.time} by {record.by}"
        elif not (numbers := self.numbers(name)):
            what = f"there is no model {name!r}"
        else:
            what = f"there is no such version; the newest of {name!r} is {numbers[-1]}"
        return RegistryError(what, where=f"{name}@{number} in {self.url}", next="list them: tailrace models list")


def open_registry(url: str, trust: Trust | None = None, *, create: bool = False) -> Registry:
    """Return the registry at a URL. create: make one where there is none.

    Raises RegistryError: there is none, its format is another, it cannot be reached, or its place does not create
    conditionally, so that two writers could take one number.
    """
    registry = Registry(open_storage(url), trust)
    with registry.told("written" if create else "read"):
        if create:
            _make(registry.storage)
        try:
            record = decode(registry.storage.read(FORMAT_KEY), FormatRecord, registry.url)
        except FileNotFoundError:
            raise RegistryError(
                "there is no registry", where=registry.url, next="register a model there: tailrace models register"
            ) from None
        except ValueError as error:
            raise damaged(registry.url, str(error)) from error
    if record.format != FORMAT:
        raise RegistryError(
            f"the registry has format {record.format}; this Tailrace knows format {FORMAT}",
            where=registry.url,
            next="use the Tailrace that wrote it",
        )
    return registry


def _make(storage: Storage) -> None:
    """Say that a place is a registry, and see that what is there is not created again."""
    content = msgspec.json.encode(FormatRecord(FORMAT))
    for _ in range(2):
        try:
            storage.create(FORMAT_KEY, content)
        except FileExistsError:
            return
    raise RegistryError(
        "it lets two writers create one object (no If-None-Match), so both could take one number",
        where=storage.url,
        next="take a directory, S3, or a server that knows conditional writes",
    )


def version_key(name: str, number: int) -> str:
    """Return the key of a version's record."""
    return f"{MODELS}/{name}/{VERSIONS}/{number}.json"


def deleted_key(name: str, number: int) -> str:
    """Return the key of the record that a version was deleted."""
    return f"{MODELS}/{name}/{DELETED}/{number}.json"


def file_key(sha256: str) -> str:
    """Return the key of a file of that content."""
    return f"files/{sha256}"


def user_here() -> str:
    """Return who runs this process, and where, as far as the system knows."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a number without a name, as in many containers
        user = "unknown"
    return f"{user}@{socket.gethostname()}"


def _error_of(error: OSError, action: str, url: str) -> RegistryError:
    """Return what is told of a place that fails."""
    text = str(error) if error.strerror is None or error.filename else error.strerror
    if error.errno in _FULL:
        return RegistryError(
            f"it has no room left: {text}", where=url, next="make room (tailrace models gc), then try again"
        )
    return RegistryError(
        f"the registry cannot be {action}: {text}", where=url, next="see that it is there, and open to you"
    )
