"""A version fetched and held for a release, by a process of its own: what a bucket's library takes goes with it.

The worker that settles a release serves for long, and so does the supervisor that renews its holds; boto3 and its like
would stay in their memory.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

import msgspec

from tailrace.errors import RegistryError, SetupError

if TYPE_CHECKING:
    from tailrace.release.registry.registry import Registry

COMMAND: Final = (sys.executable, "-P", "-m", "tailrace.release.registry.child")
"""Takes a task on its standard input."""
FETCH_S_MAX: Final = 3_600.0
"""For one version; a worker's start has its own limit, which is shorter."""
HELD_S: Final = 30 * 86_400.0
"""How long a release holds a version in the registry, unless its server renews that."""
_ID_CHARACTERS: Final = 16
Told = TypeVar("Told")


class RegistryChoice(msgspec.Struct, frozen=True):
    """Which registry is meant where a model names none, and the files of the public keys whose versions are taken."""

    url: str | None = None
    trusted_keys: tuple[str, ...] = ()


class _Wanted(msgspec.Struct, frozen=True, tag=True):
    """version: NAME@NUMBER or NAME@ALIAS. holder: the directory of releases that it is for."""

    url: str
    version: str
    trusted_keys: tuple[str, ...]
    out: str
    holder: str


class Fetched(msgspec.Struct, frozen=True, tag=True):
    """A version that was fetched. reference: with its number. url: of the registry."""

    reference: str
    digest: str
    url: str


class HoldRenewal(msgspec.Struct, frozen=True, tag=True):
    """A task: hold a version for another `HELD_S`. Its members mean what they do where one is fetched."""

    url: str
    version: str
    trusted_keys: tuple[str, ...]
    holder: str


class Renewed(msgspec.Struct, frozen=True, tag=True):
    """A version is held for longer."""


class _Refused(msgspec.Struct, frozen=True, tag=True):
    what: str
    where: str
    next: str


def url_of(version: str, registry: str | None, choice: RegistryChoice, base_dir: Path) -> str:
    """Return the URL of the registry that a model's version lies in. Raises RegistryError where none is named.

    registry: of the declaration, a URL, or a directory beside the pipeline's file, which is in `base_dir`; None takes
        the choice's.
    """
    if registry is not None:
        return registry if "://" in registry else str(base_dir / registry)
    if choice.url is not None:
        return choice.url
    raise RegistryError(
        "no registry is named that it lies in",
        where=f"model version {version!r}",
        next="give --registry URL, or TAILRACE_REGISTRY, or the model's registry=",
    )


def fetch_for_release(version: str, url: str, trusted_keys: tuple[str, ...], out: Path, holder: str) -> Fetched:
    """Write a version's files into an empty directory, and hold it in the registry, where that may be written.

    Raises RegistryError: there is no such version, it is damaged or not trusted.
    """
    wanted = _Wanted(url, version, trusted_keys, str(out), holder)
    try:
        done = subprocess.run(
            COMMAND, input=msgspec.json.encode(wanted), capture_output=True, timeout=FETCH_S_MAX, check=False
        )
    except subprocess.TimeoutExpired:
        raise RegistryError(
            "it did not come in an hour", where=f"{version} in {url}", next="see what is slow"
        ) from None
    return told_by(done.stdout, done.stderr, Fetched, f"{version} in {url}")


def told_by(out: bytes, errors: bytes, kind: type[Told], where: str) -> Told:
    """Return what the process has said on its two outputs. Raises RegistryError for its refusal, or its end without."""
    try:
        told = msgspec.json.decode(out, type=Fetched | Renewed | _Refused)
    except msgspec.DecodeError:
        why = errors.decode("utf-8", "replace").strip().rpartition("\n")[2]
        raise RegistryError(f"its process has failed: {why}", where=where, next="try again") from None
    if isinstance(told, _Refused):
        raise RegistryError(told.what, where=told.where, next=told.next)
    assert isinstance(told, kind)
    return told


def _fetch(wanted: _Wanted) -> Fetched:
    """Fetch, in the child."""
    from tailrace.release.registry.fetching import fetch
    from tailrace.release.registry.reference import Reference

    registry = _open(wanted.url, wanted.trusted_keys)
    record = registry.resolve(Reference.parse(wanted.version)).record
    fetch(registry, record, Path(wanted.out))
    with suppress(RegistryError):  # a server need not be allowed to write there: it has its copy
        _hold(registry, record.name, record.number, wanted.holder)
    return Fetched(record.reference, record.digest, registry.url)


def _renew(wanted: HoldRenewal) -> Renewed:
    """Hold for longer, in the child."""
    from tailrace.release.registry.reference import Reference

    registry = _open(wanted.url, wanted.trusted_keys)
    record = registry.resolve(Reference.parse(wanted.version)).record
    _hold(registry, record.name, record.number, wanted.holder)
    return Renewed()


def _open(url: str, trusted_keys: tuple[str, ...]) -> Registry:
    from tailrace.release.registry.envelope import Trust
    from tailrace.release.registry.registry import open_registry

    return open_registry(url, Trust.read([Path(key) for key in trusted_keys]))


def _hold(registry: Registry, name: str, number: int, releases: str) -> None:
    """Hold a version for the servers of a directory of releases, from now on."""
    from tailrace.release.registry.notes import hold
    from tailrace.release.registry.registry import user_here

    holder = f"a release of {user_here()}"
    hold_id = hashlib.sha256(f"{holder} {releases}".encode()).hexdigest()[:_ID_CHARACTERS]
    hold(
        registry, name, number, hold_id=f"release-{hold_id}", holder=holder, why=f"served from {releases}",
        until_s=time.time() + HELD_S,
    )  # fmt: skip


def main() -> None:
    """Do what standard input says, and say on standard output what came of it."""
    task = msgspec.json.decode(sys.stdin.buffer.read(), type=_Wanted | HoldRenewal)
    told: Fetched | Renewed | _Refused
    try:
        told = _fetch(task) if isinstance(task, _Wanted) else _renew(task)
    except SetupError as error:
        told = _Refused(error.what, error.where, error.next)
    sys.stdout.buffer.write(msgspec.json.encode(told))


if __name__ == "__main__":
    main()
