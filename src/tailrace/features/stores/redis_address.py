"""Where Redis is, as URLs say it: one server, the sentinels of a service, or some nodes of a cluster. No I/O."""

from __future__ import annotations

import re
import ssl
from dataclasses import dataclass, replace
from typing import Any, Final, NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

from tailrace.errors import StoreError

NEXT: Final = "see that Redis answers there: redis-cli -u URL ping"
_NEXT_OPTION: Final = (
    "leave it out: a database and a password stand before it, and rediss://… alone has an option, ssl_ca_certs=FILE; "
    "write a ? in a password as %3F"
)
PORT: Final = 6379
SENTINEL_PORT: Final = 26379
HOSTS_MAX: Final = 64
"""Of one URL."""
_SCHEME: Final = re.compile(r"([a-z][a-z0-9+.-]*:(?://)?)?(.*)", re.DOTALL | re.IGNORECASE)
_OPTIONS: Final = {"rediss": frozenset({"ssl_ca_certs"})}
"""By scheme, what may stand in a URL's query. redis-py would take more of it, but the reader would not."""

Node = tuple[str, int]
"""A host and its port."""


@dataclass(frozen=True, slots=True)
class RedisAddress:
    """Where a Redis is and how to enter: `redis://[[user]:password@]host[:port][/database]`, rediss:// for TLS.

    Of the options in its query, `ssl_ca_certs=FILE` names the authority that signed the server's certificate.
    is_master: whether it must be no replica.
    """

    url: str
    host: str
    port: int
    database: int
    username: str | None
    password: str | None
    tls: ssl.SSLContext | None
    is_master: bool = False

    @staticmethod
    def parse(url: str) -> RedisAddress:
        """Return the address in a URL. Raises StoreError for one that is none."""
        try:
            parts = urlsplit(url)
            host, port, database = parts.hostname or "localhost", parts.port or PORT, int(parts.path.strip("/") or 0)
            host.encode("idna")  # what no resolver takes: a..b, or a label of over 63 characters
            options = parse_qs(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query))
        except ValueError:
            raise StoreError("not an address of Redis", where=without_password(url),
                             next="write redis://host:port/database") from None  # fmt: skip
        if unknown := options.keys() - _OPTIONS.get(parts.scheme, frozenset()):
            named = "" if "@" in parts.query else f" {min(unknown)!r}"  # it may be a password's end
            raise StoreError(f"the URL has an option{named} that is not known", where=without_password(url),
                             next=_NEXT_OPTION)  # fmt: skip
        tls = None
        if parts.scheme == "rediss":
            authority = options.get("ssl_ca_certs", [""])[0] or None
            try:
                tls = ssl.create_default_context(cafile=authority)
            except OSError as error:
                raise StoreError(f"cannot read {authority}: {error}", where=without_password(url),
                                 next="give a PEM file with ssl_ca_certs=") from None  # fmt: skip
        return RedisAddress(
            url=without_password(url),
            host=host,
            port=port,
            database=database,
            username=unquote(parts.username) if parts.username else None,
            password=unquote(parts.password) if parts.password else None,
            tls=tls,
        )

    def at(self, node: Node, *, is_master: bool = False) -> RedisAddress:
        """Return the address of another server that is entered in the same way."""
        url = f"{'rediss' if self.tls else 'redis'}://{_joined(node)}/{self.database}"
        return replace(self, url=url, host=node[0], port=node[1], is_master=is_master)

    def greeting(self) -> list[tuple[Any, ...]]:
        """Return the commands that a new connection begins with; the last proves that Redis answers."""
        commands: list[tuple[Any, ...]] = []
        if self.password is not None:
            user = (self.username,) if self.username else ()
            commands.append(("AUTH", *user, self.password))
        if self.database:
            commands.append(("SELECT", str(self.database)))
        return [*commands, ("ROLE",) if self.is_master else ("PING",)]


class RedisHosts(NamedTuple):
    """Some hosts by which the servers behind them are found.

    url: what may be shown of it. hosts: of the sentinels, or of some nodes. entry: how each server is entered, wherever
    it is. service: as the sentinels call it. login, query: of the URL, as they stand there.
    """

    url: str
    hosts: tuple[Node, ...]
    entry: RedisAddress
    service: str
    login: str
    query: str

    @staticmethod
    def of_sentinels(url: str) -> RedisHosts:
        """Return the hosts in `redis+sentinel://[user:password@]host[:port],…/service[/database]`."""
        hosts = _parse_hosts(url, SENTINEL_PORT, "write redis+sentinel://host:port,host:port/service/database")
        if not hosts.service:
            raise StoreError("the URL names no service", where=hosts.url,
                             next="write what the sentinels call it: redis+sentinel://host:port/service/0")  # fmt: skip
        return hosts

    @staticmethod
    def of_cluster(url: str) -> RedisHosts:
        """Return the hosts in `redis+cluster://[user:password@]host[:port],…`."""
        next_step = "write redis+cluster://host:port, without a database: a cluster has one only"
        hosts = _parse_hosts(url, PORT, next_step)
        if hosts.service not in {"", "0"} or hosts.entry.database:
            raise StoreError("not an address of a Redis Cluster", where=hosts.url, next=next_step)
        return hosts

    def url_of(self, node: Node) -> str:
        """Return the whole URL of one server, password included: it may not be shown."""
        scheme = "rediss" if self.entry.tls else "redis"
        return f"{scheme}://{self.login}{_joined(node)}/{self.entry.database}{self.query}"


def without_password(url: str) -> str:
    """Return what may be shown of a URL, a wrong one too: a password may have any character, also where none fits."""
    match = _SCHEME.fullmatch(url)
    assert match is not None  # it matches every text
    scheme, (login, _, place) = match[1] or "", match[2].rpartition("@")
    # Behind a ? the @ may be one of an option's: then what follows it is no host.
    return f"{scheme}…" if "?" in login else scheme + place.partition("?")[0]


def _parse_hosts(url: str, port: int, next_step: str) -> RedisHosts:
    """Return the hosts of a URL; its path is a service and a database, or nothing. Raises StoreError."""
    shown = without_password(url)
    scheme, _, rest = url.partition("://")
    place, question, query = rest.partition("?")
    authority, _, path = place.partition("/")
    login, at, names = authority.rpartition("@")
    service, _, database = path.rstrip("/").partition("/")
    base = scheme.lower().partition("+")[0]
    hosts = []
    try:
        for name in names.split(","):
            found = RedisAddress.parse(f"redis://{name}")
            hosts.append((found.host, found.port if _has_port(name) else port))
        entry = RedisAddress.parse(f"{base}://{login}{at}{names.split(',')[0]}/{database}{question}{query}")
    except StoreError as error:
        raise StoreError(error.what, where=shown,
                         next=error.next if "ssl_ca_certs" in error.next else next_step) from None  # fmt: skip
    if len(hosts) > HOSTS_MAX:
        raise StoreError(f"{len(hosts)} hosts are more than {HOSTS_MAX}", where=shown, next="name some of them")
    return RedisHosts(shown, tuple(hosts), entry, service, login + at, question + query)


def _has_port(name: str) -> bool:
    return urlsplit(f"redis://{name}").port is not None


def _joined(node: Node) -> str:
    host, port = node
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
