"""Opening a store by its URL: LMDB by its path, Redis, Sentinel, Cluster, DynamoDB, Feast, a tier of two, `memory:`."""

from __future__ import annotations

import os
import re
from functools import partial
from pathlib import Path
from typing import Final

from tailrace.deadline import Clock
from tailrace.errors import NoStoreError, StoreError
from tailrace.features.stores.lmdb import LmdbStore
from tailrace.features.stores.lmdb_writer import LmdbWriter
from tailrace.features.stores.memory import MemoryStore, MemoryWriter
from tailrace.features.stores.protocol import OnlineStore, StoreWriter
from tailrace.features.stores.redis_address import RedisAddress, RedisHosts, without_password
from tailrace.features.stores.registry import OWN_SCHEMES, registered_store

_SCHEME: Final = re.compile(r"([a-z][a-z0-9+.-]+):(.*)", re.DOTALL | re.IGNORECASE)
_SINGLE: Final = frozenset({"redis", "rediss"})
_SENTINEL: Final = frozenset({"redis+sentinel", "rediss+sentinel"})
_CLUSTER: Final = frozenset({"redis+cluster", "rediss+cluster"})
_FEAST: Final = frozenset({"feast+redis", "feast+rediss", "feast+sqlite"})
_REDIS: Final = _SINGLE | _SENTINEL | _CLUSTER
_WRITE_AS: Final = (
    "write lmdb:PATH, a plain path, redis://host:port, redis+sentinel://host:port/service, redis+cluster://host:port, "
    "dynamodb://table, tier:HOT|SLOWER, feast+redis://…, feast+sqlite:… or memory:; or tr.register_store it"
)
_memory: dict[str, dict[bytes, bytes]] = {}
"""This process's in-memory stores, by name: `memory:`, `memory:other`."""


def open_store(url: str, clock: Clock) -> OnlineStore:
    """Return the store that a URL names, yet to be opened. Raises StoreError for a URL of no known store."""
    scheme, rest = _parse(url)
    if scheme in _REDIS:
        return _open_redis(scheme, url, clock)
    if scheme in _FEAST:
        return _open_feast(scheme, url, clock)
    if scheme == "dynamodb":
        from tailrace.features.stores.dynamodb import DynamoStore

        return DynamoStore(url, clock)
    if scheme == "tier":
        from tailrace.features.stores.tier import TierStore

        hot, slower = _parse_tier(url, rest)
        return TierStore(open_store(hot, clock), open_store(slower, clock), partial(open_writer, hot), clock)
    if (opens := registered_store(scheme)) is not None:
        return opens(url, clock)
    return MemoryStore(_memory.setdefault(rest, {})) if scheme == "memory" else LmdbStore(rest, clock)


def _open_redis(scheme: str, url: str, clock: Clock) -> OnlineStore:
    if scheme in _CLUSTER:
        from tailrace.features.stores.redis_cluster import RedisClusterStore

        return RedisClusterStore(url, clock)
    from tailrace.features.stores.redis import RedisStore

    return RedisStore(url, clock)


def _open_feast(scheme: str, url: str, clock: Clock) -> OnlineStore:
    if scheme == "feast+sqlite":
        from tailrace.features.stores.feast_sqlite import FeastSqliteStore

        return FeastSqliteStore(url, clock)
    from tailrace.features.stores.feast_redis import FeastRedisStore

    return FeastRedisStore(url, clock)


def open_writer(url: str, *, create: bool = True) -> StoreWriter:
    """Return the writer of the store that a URL names.

    create: make an embedded store, or a table, that is not there yet. Raises StoreError where it is not, or cannot be
    written.
    """
    scheme, rest = _parse(url)
    if scheme in _REDIS:
        from tailrace.features.stores.redis_writer import RedisWriter

        return RedisWriter(url)
    if scheme == "dynamodb":
        from tailrace.features.stores.dynamodb_writer import DynamoWriter

        return DynamoWriter(url, create=create)
    if scheme == "tier":
        from tailrace.features.stores.tier_writer import TierWriter

        hot, slower = _parse_tier(url, rest)
        return TierWriter(open_writer(hot), open_writer(slower, create=create))
    if scheme in _FEAST or registered_store(scheme) is not None:
        raise StoreError("this store is filled elsewhere", where=without_password(url),
                         next="write into one of Tailrace's own, or serve from what is there")  # fmt: skip
    if scheme == "memory":
        if not create and rest not in _memory:
            raise NoStoreError("no such store in this process", where=url, next="name the store that serves the rows")
        return MemoryWriter(_memory.setdefault(rest, {}))
    return LmdbWriter(rest, create=create)


def resolve_url(url: str, base_dir: Path) -> str:
    """Return the URL with its path, if it has a relative one, made one of `base_dir`'s. Raises as `open_store`."""
    scheme, rest = _parse(url)
    if scheme == "tier":
        hot, slower = _parse_tier(url, rest)
        return f"tier:{hot}|{resolve_url(slower, base_dir)}"
    return f"{scheme}:{base_dir / rest}" if scheme in {"lmdb", "feast+sqlite"} else url


def store_identity(url: str) -> str:
    """Return what is the same for two URLs of one store: LMDB's files may be opened only once by a process.

    Of a cluster, or a service of sentinels, it is the hosts that the URL names: others may be of the same one.
    """
    scheme, rest = _parse(url)
    if scheme == "lmdb":
        return f"lmdb:{os.path.realpath(rest)}"
    if scheme == "tier":
        return f"tier:{'|'.join(map(store_identity, _parse_tier(url, rest)))}"
    if scheme == "dynamodb":
        from tailrace.features.stores.dynamodb_table import DynamoTable

        table = DynamoTable.parse(url)
        return f"{table.where}?region={table.region}&endpoint={table.endpoint}&consistent={table.is_consistent}"
    if scheme in _SINGLE:
        address = RedisAddress.parse(url)
        return f"{scheme}://{address.host}:{address.port}/{address.database}"
    if scheme in _REDIS:
        found = RedisHosts.of_cluster(url) if scheme in _CLUSTER else RedisHosts.of_sentinels(url)
        hosts = ",".join(sorted(f"{host}:{port}" for host, port in found.hosts))
        return f"{scheme}://{hosts}/{found.service}/{found.entry.database}"
    return url


def _parse(url: str) -> tuple[str, str]:
    """Return the scheme and what follows it."""
    match = _SCHEME.fullmatch(url)
    scheme, rest = (match[1].lower(), match[2]) if match else ("lmdb", url)
    if scheme not in OWN_SCHEMES and registered_store(scheme) is None:
        raise StoreError(f"no store is called {scheme!r}", where=without_password(url), next=_WRITE_AS)
    if scheme == "lmdb" and not rest:
        raise StoreError("the store's path is empty", where=url, next="write lmdb:PATH")
    return scheme, rest


def _is_known(url: str) -> bool:
    """Return whether a URL begins with the scheme of a store."""
    scheme = url.partition(":")[0].lower()
    return scheme in OWN_SCHEMES or registered_store(scheme) is not None


def _parse_tier(url: str, rest: str) -> tuple[str, str]:
    """Return the URLs of the hot and of the slower store. Raises StoreError where they are no two that fit."""
    hot, bar, slower = rest.partition("|")
    shown = f"tier:{without_password(rest)}"  # as one URL: a | may be one of a password's
    is_cut = "@" in slower and not _is_known(slower)
    if not bar or not hot or not slower or "|" in slower or is_cut:
        raise StoreError("a tier is two stores", where=shown,
                         next="write tier:redis://host:port|dynamodb://table, a | in a password as %7C")  # fmt: skip
    schemes = {_parse(hot)[0], _parse(slower)[0]}
    if schemes - OWN_SCHEMES:
        raise StoreError("a store that is registered is no part of a tier", where=shown,
                         next="serve from it alone; `serve --cache-bytes-max` keeps rows in memory")  # fmt: skip
    if schemes & _FEAST:
        raise StoreError("a store of Feast's is no part of a tier", where=shown,
                         next="serve from it alone; `serve --cache-bytes-max` keeps rows in memory")  # fmt: skip
    if _parse(hot)[0] in {"lmdb", "tier"} or _parse(slower)[0] == "tier":
        # The hot one is written while it is read, and a process may open LMDB's files only once.
        raise StoreError("this store cannot be the hot one, nor a tier in a tier", where=shown,
                         next="take Redis as the hot one: tier:redis://host:port|dynamodb://table")  # fmt: skip
    return hot, slower
