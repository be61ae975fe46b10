"""The file of API keys: what `tailrace keys` writes, and a server reads. It holds digests of keys, never a key.

    {"version": 1, "keys": [{"id": "4f1d…", "name": "web", "sha256": "9b6c…", "scopes": ["pipelines/fraud"], …}]}

A key is `tr_ID_SECRET`, with 256 random bits in SECRET: nobody guesses it, so a plain SHA-256 hides it as well as a
slow hash would, and costs a server a microsecond.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Final, Literal

import msgspec

from tailrace.errors import SetupError
from tailrace.release.flush import flush
from tailrace.request.limit import BURST_MAX, CONCURRENT_MAX, NO_LIMIT, RATE_PATTERN, Limit
from tailrace.request.priority import PRIORITIES, Priority
from tailrace.server.tls.peer import CERTIFICATE

KEYS_MAX: Final = 10_000
FILE_BYTES_MAX: Final = 16 << 20
SCOPES_MAX: Final = 64
SECRET_BYTES: Final = 32
_NAME: Final = r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}\Z"
SCOPE: Final = r"^(pipelines|streams)/(\*|[A-Za-z0-9][A-Za-z0-9_.-]*)\Z"
Time = Annotated[datetime, msgspec.Meta(tz=True)]
Level = Literal["high", "normal", "low"]
LEVELS: Final[dict[Priority, Level]] = {Priority.HIGH: "high", Priority.NORMAL: "normal", Priority.LOW: "low"}


class Key(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of one key. sha256: of the whole key, in hex. scopes: as `pipelines/fraud` or `streams/*`.

    expires: None for never. revoked: when it was. rate, burst, concurrent: what it may have of all that it opens; see
    `Limit`. priority: of its calls, and the most that they may ask for. certificate: what is shown in place of a key,
    by name; see tls/peer.py. sha256 is then of that.
    """

    id: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{12}\Z")]
    name: Annotated[str, msgspec.Meta(pattern=_NAME)]
    sha256: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}\Z")]
    scopes: Annotated[
        tuple[Annotated[str, msgspec.Meta(pattern=SCOPE)], ...], msgspec.Meta(min_length=1, max_length=SCOPES_MAX)
    ]
    created: Time
    expires: Time | None = None
    revoked: Time | None = None
    rate: Annotated[str, msgspec.Meta(pattern=RATE_PATTERN)] | None = None
    burst: Annotated[int, msgspec.Meta(ge=1, le=BURST_MAX)] | None = None
    concurrent: Annotated[int, msgspec.Meta(ge=1, le=CONCURRENT_MAX)] | None = None
    priority: Level = "normal"
    certificate: Annotated[str, msgspec.Meta(pattern=CERTIFICATE)] | None = None

    def __post_init__(self) -> None:
        Limit(rate=self.rate, burst=self.burst, concurrent=self.concurrent)

    @property
    def limit(self) -> Limit:
        """What it may have."""
        return Limit(rate=self.rate, burst=self.burst, concurrent=self.concurrent)

    @property
    def level(self) -> Priority:
        """The priority of its calls."""
        return PRIORITIES[self.priority]

    def state(self, now: datetime) -> Literal["active", "revoked", "expired"]:
        """Return whether it opens anything at a time, and why not."""
        if self.revoked is not None:
            return "revoked"
        return "expired" if self.expires is not None and self.expires <= now else "active"

    def may(self, scope: str) -> bool:
        """Say whether it opens what has a scope."""
        return scope in self.scopes or f"{scope.partition('/')[0]}/*" in self.scopes


class _Keys(msgspec.Struct, frozen=True):
    """The content of the file."""

    version: Literal[1]
    keys: tuple[Key, ...]


class _RawKeys(msgspec.Struct, frozen=True):
    """The content of the file, with keys that are not looked at yet."""

    version: Literal[1]
    keys: Annotated[tuple[msgspec.Raw, ...], msgspec.Meta(max_length=KEYS_MAX)]


def make_key(
    name: str, scopes: Sequence[str], expires: datetime | None = None, limit: Limit = NO_LIMIT,
    priority: Priority = Priority.NORMAL,
) -> tuple[str, Key]:  # fmt: skip
    """Return a new key, which is nowhere else, and what is kept of it.

    Raises SetupError for a name, scopes or a time that no key can have.
    """
    if not re.match(_NAME, name):
        raise SetupError(f"{name!r} is no name for a key", where="NAME", next="use letters, digits, '.', '_', '-'")
    if not 1 <= len(scopes) <= SCOPES_MAX:
        raise SetupError(
            f"a key has 1 to {SCOPES_MAX} scopes", where=name, next="give --pipeline or --stream, '*' for all"
        )
    for scope in scopes:
        if not re.match(SCOPE, scope):
            raise SetupError(f"{scope!r} is no scope", where=name, next="name a pipeline or a stream, or '*' for all")
    number, now = secrets.token_hex(6), datetime.now(UTC)
    if expires is not None and expires <= now:
        raise SetupError("the key would have expired already", where=name, next="let it expire later")
    key = f"tr_{number}_{secrets.token_urlsafe(SECRET_BYTES)}"
    digest = hashlib.sha256(key.encode()).hexdigest()
    return key, Key(
        id=number, name=name, sha256=digest, scopes=tuple(scopes), created=now, expires=expires,
        rate=limit.rate, burst=limit.burst, concurrent=limit.concurrent, priority=LEVELS[priority],
    )  # fmt: skip


def certified(key: Key, certificate: str) -> Key:
    """Return what is kept of a caller who shows a certificate in place of a new key. Raises SetupError for no name."""
    if not re.match(CERTIFICATE, certificate):
        raise SetupError(
            f"{certificate!r} is no name of a certificate", where=key.name,
            next="name it as DNS:…, URI:…, email:…, CN=…, or by SHA256: and the digest in 64 small letters of hex",
        )  # fmt: skip
    digest = hashlib.sha256(certificate.encode()).hexdigest()
    return msgspec.structs.replace(key, certificate=certificate, sha256=digest)


class KeyReader:
    """Reads one file, again and again: a key that it has read before is not decoded again.

    A server reads between requests: 10,000 keys took 80 ms, and take 15 where few are new.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known: dict[bytes, Key] = {}

    def read(self) -> tuple[Key, ...]:
        """Return the keys of the file. Raises SetupError where they cannot be had; it never quotes the content."""
        again = "make it with tailrace keys create, or name another file"
        try:
            with self._path.open("rb") as opened:
                content = opened.read(FILE_BYTES_MAX + 1)
        except OSError as error:
            what = f"the keys cannot be read: {error.strerror or error}"
            raise SetupError(what, where=str(self._path), next=again) from None
        if len(content) > FILE_BYTES_MAX:
            raise SetupError(f"the file is over {FILE_BYTES_MAX} bytes", where=str(self._path), next=again)
        try:
            raws = list(map(bytes, msgspec.json.decode(content, type=_RawKeys).keys))
            known = {raw: self._known.get(raw) or msgspec.json.decode(raw, type=Key) for raw in raws}
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise SetupError(f"this is no file of keys: {error}", where=str(self._path), next=again) from None
        self._known = known
        keys = tuple(map(known.__getitem__, raws))
        if len({key.id for key in keys}) < len(keys):
            raise SetupError("two keys have the same id", where=str(self._path), next="take one of them away")
        return keys


def read_keys(path: Path) -> tuple[Key, ...]:
    """Return the keys of a file; see `KeyReader.read`."""
    return KeyReader(path).read()


@contextmanager
def changing(path: Path, *, create: bool = False) -> Iterator[list[Key]]:
    """Give the keys of a file to be changed, and write it whole once they are; one process at a time.

    Whoever reads it meanwhile sees what was there before. create: whether it may be absent.
    Raises SetupError where it cannot be read or written.
    """
    path = path.resolve()  # or a link to it would be replaced
    try:
        with path.with_name(f".{path.name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            keys = [] if create and not path.exists() else list(read_keys(path))
            yield keys
            if len(keys) > KEYS_MAX:
                raise SetupError(f"a file holds {KEYS_MAX} keys at most", where=str(path), next="take old ones out")
            _write(path, tuple(keys))
    except OSError as error:
        raise SetupError(f"the keys cannot be written: {error.strerror or error}", where=str(path),
                         next="choose a file in a folder that is there, and yours") from None  # fmt: skip


def _write(path: Path, keys: tuple[Key, ...]) -> None:
    """Write a file whole or not at all, also where the power fails; a new one is its owner's alone.

    One that is there stays whose it was, as far as this process may say so: else a server could not read it any more.
    """
    former = path.stat() if path.exists() else None
    draft = path.with_name(f".{path.name}.draft")
    draft.unlink(missing_ok=True)
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as opened:
        opened.write(msgspec.json.format(msgspec.json.encode(_Keys(1, keys)), indent=1))
        if former is not None:
            for owner in ((former.st_uid, former.st_gid), (-1, former.st_gid)):
                with suppress(PermissionError):
                    os.fchown(opened.fileno(), *owner)
                    break
            os.fchmod(opened.fileno(), former.st_mode & 0o777)
    flush(draft)
    draft.replace(path)
    flush(path.parent)
