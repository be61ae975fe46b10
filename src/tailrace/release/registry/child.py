"""A registered version fetched for a release, by a process of its own: what a bucket's library takes goes with it.

The worker that settles a release serves for long; boto3 and its like would stay in its memory.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec

from tailrace.errors import RegistryError, SetupError

FETCH_S_MAX: Final = 3_600.0
"""For one version; a worker's start has its own limit, which is shorter."""
HELD_S: Final = 30 * 86_400.0
"""How long a release holds a version in the registry; each start of a server begins anew."""
_ID_CHARACTERS: Final = 16


class RegistryChoice(msgspec.Struct, frozen=True):
    """Which registry is meant where a model names none, and the files of the public keys whose versions are taken."""

    url: str | None = None
    trusted_keys: tuple[str, ...] = ()


class _Wanted(msgspec.Struct, frozen=True):
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
            [sys.executable, "-m", "tailrace.release.registry.child"],
            input=msgspec.json.encode(wanted), capture_output=True, timeout=FETCH_S_MAX, check=False,
        )  # fmt: skip
        told = msgspec.json.decode(done.stdout, type=Fetched | _Refused)
    except subprocess.TimeoutExpired:
        raise RegistryError(
            "it did not come in an hour", where=f"{version} in {url}", next="see what is slow"
        ) from None
    except msgspec.DecodeError:
        why = done.stderr.decode("utf-8", "replace").strip().rpartition("\n")[2]
        raise RegistryError(f"it cannot be fetched: {why}", where=f"{version} in {url}", next="try again") from None
    if isinstance(told, _Refused):
        raise RegistryError(told.what, where=told.where, next=told.next)
    return told


def _fetch(wanted: _Wanted) -> Fetched:
    """Fetch, in the child."""
    from tailrace.release.registry.envelope import Trust
    from tailrace.release.registry.fetching import fetch
    from tailrace.release.registry.notes import hold
    from tailrace.release.registry.reference import Reference
    from tailrace.release.registry.registry import open_registry, user_here

    registry = open_registry(wanted.url, Trust.read([Path(key) for key in wanted.trusted_keys]))
    record = registry.resolve(Reference.parse(wanted.version)).record
    fetch(registry, record, Path(wanted.out))
    holder = f"a release of {user_here()}"
    hold_id = hashlib.sha256(f"{holder} {wanted.holder}".encode()).hexdigest()[:_ID_CHARACTERS]
    with suppress(RegistryError):  # a server need not be allowed to write there: it has its copy
        hold(
            registry, record.name, record.number, hold_id=f"release-{hold_id}", holder=holder,
            why=f"served from {wanted.holder}", until_s=time.time() + HELD_S,
        )  # fmt: skip
    return Fetched(record.reference, record.digest, registry.url)


def main() -> None:
    """Fetch what standard input says, and say on standard output what came of it."""
    try:
        told: Fetched | _Refused = _fetch(msgspec.json.decode(sys.stdin.buffer.read(), type=_Wanted))
    except SetupError as error:
        told = _Refused(error.what, error.where, error.next)
    sys.stdout.buffer.write(msgspec.json.encode(told))


if __name__ == "__main__":
    main()
