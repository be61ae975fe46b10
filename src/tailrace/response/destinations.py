"""Where the results of accepted requests go: declared by who runs the pipeline, never named by a caller. No I/O."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import SplitResult, urlsplit

from tailrace.deadline import NS_PER_S, parse_duration

CONNECTIONS_MAX: Final = 256
ENTRIES_MAX: Final = 1_000_000
TIMEOUT_S_MAX: Final = 300
_VARIABLE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@dataclass(frozen=True, slots=True)
class Webhook:
    """A server that results are sent to, each by a POST that is signed as Standard Webhooks has it.

    url: `https://host/path`, without a query or a password. secret_env: the environment variable that holds the
    secret, or the old and the new one with a blank between; secret_file: or the file, which is read again when it
    changes. timeout: of one try. deadline: how long a result is tried, from when it was there. connections_max: to the
    server at once.
    Raises ValueError for what none of these may be.
    """

    url: str
    secret_env: str | None = None
    secret_file: str | None = None
    timeout: str = "10s"
    deadline: str = "1d"
    connections_max: int = 8

    def __post_init__(self) -> None:
        parts = _parts(self, {"http", "https"})
        if parts.username is not None or parts.password is not None or parts.query or parts.fragment:
            raise ValueError(f"Webhook: the URL of {parts.hostname} has more than host and path: leave out the rest")
        _check_secret(self)
        _check_times(self)
        if type(self.connections_max) is not int or not 1 <= self.connections_max <= CONNECTIONS_MAX:
            raise ValueError(
                f"Webhook: connections_max is {self.connections_max!r}; choose from 1 to {CONNECTIONS_MAX}"
            )


@dataclass(frozen=True, slots=True)
class RedisStream:
    """A Redis stream that results are added to, each an entry with the fields `id`, `result` and its signature.

    url: `redis://host:port/database`, rediss:// for TLS. key: of the stream. secret_env, secret_file, timeout,
    deadline: see `Webhook`. entries_max: about how many entries the stream keeps.
    Raises ValueError for what none of these may be.
    """

    url: str
    key: str
    secret_env: str | None = None
    secret_file: str | None = None
    timeout: str = "10s"
    deadline: str = "1d"
    entries_max: int = ENTRIES_MAX

    def __post_init__(self) -> None:
        _parts(self, {"redis", "rediss"})
        if not isinstance(self.key, str) or not self.key:
            raise ValueError("RedisStream: key is empty; name the stream")
        _check_secret(self)
        _check_times(self)
        if type(self.entries_max) is not int or self.entries_max < 1:
            raise ValueError(f"RedisStream: entries_max is {self.entries_max!r}; write a number above 0")


Destination = Webhook | RedisStream


def _parts(declared: Any, schemes: set[str]) -> SplitResult:
    """Return the parts of a URL. Raises ValueError, which does not show it: it may hold a password."""
    kind, wanted = type(declared).__name__, " or ".join(f"{scheme}://host" for scheme in sorted(schemes))
    try:
        parts: SplitResult = urlsplit(declared.url)
        known = parts.scheme in schemes and bool(parts.hostname) and parts.port != 0
    except (ValueError, AttributeError, TypeError):
        known = False
    if not known:
        raise ValueError(f"{kind}: url is no address; write {wanted}")
    return parts


def _check_secret(declared: Any) -> None:
    kind, variable, file = type(declared).__name__, declared.secret_env, declared.secret_file
    if (variable is None) == (file is None):
        raise ValueError(f"{kind}: name what holds the secret, by one of secret_env= and secret_file=")
    if variable is not None and (not isinstance(variable, str) or not _VARIABLE.fullmatch(variable)):
        raise ValueError(f"{kind}: secret_env names the environment variable, it is not the secret itself")
    if file is not None and (not isinstance(file, str) or not file):
        raise ValueError(f"{kind}: secret_file is the path of a file")


def _check_times(declared: Any) -> None:
    kind = type(declared).__name__
    try:
        timeout_ns, deadline_ns = parse_duration(declared.timeout), parse_duration(declared.deadline)
    except ValueError as error:
        raise ValueError(f"{kind}: {error}") from None
    if not 0 < timeout_ns <= TIMEOUT_S_MAX * NS_PER_S:
        raise ValueError(f"{kind}: timeout is {declared.timeout!r}; choose up to {TIMEOUT_S_MAX}s")
    if deadline_ns < timeout_ns:
        raise ValueError(f"{kind}: deadline is shorter than timeout, so nothing would be tried twice")
