"""Redis as its writer asks it: one server, or the master that sentinels name. All of its keys are one group."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any, Final, TypeVar

from tailrace.errors import StoreError
from tailrace.features.stores.redis_address import NEXT, RedisAddress, RedisHosts
from tailrace.features.stores.redis_client import (
    CONNECT_S_MAX,
    FAILOVER_LOOK_S,
    FAILOVER_S_MAX,
    NODE_ANSWER_S_MAX,
    SCAN_KEYS,
    ScriptCall,
    chunks,
)  # fmt: skip

ANSWER_S_MAX: Final = 30.0
Answer = TypeVar("Answer")


class SingleClient:
    """One server: all keys are one group. Behind sentinels it waits for the next master where one is gone."""

    def __init__(self, url: str) -> None:
        import redis

        self._errors = redis.RedisError
        self._lost = (redis.ConnectionError, redis.TimeoutError)
        if url.partition("://")[0].lower().endswith("+sentinel"):
            hosts = RedisHosts.of_sentinels(url)
            self.where, wait_s = hosts.url, FAILOVER_S_MAX
            self._client: Any = _master_client(hosts)
        else:
            self.where, wait_s = RedisAddress.parse(url).url, 0.0
            self._client = redis.Redis.from_url(
                url, socket_connect_timeout=CONNECT_S_MAX, socket_timeout=ANSWER_S_MAX
            )  # fmt: skip
        self._wait_s = 0.0  # what cannot be reached at the start is told at once
        self.ask("PING")
        self._wait_s = wait_s

    def ask(self, *command: Any) -> Any:
        """Return what Redis answers to a command."""
        return self._try(lambda: self._client.execute_command(*command), command[0])

    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """Return the values of some keys, in order."""
        return self.ask("MGET", *keys) if keys else []

    def evaluate(self, calls: Sequence[ScriptCall]) -> list[Any]:
        """Return what some scripts give, one after the other: so no reader waits behind more than one."""
        return [self._evaluate(call) for call in calls]

    def _evaluate(self, call: ScriptCall) -> Any:
        run = self._client.register_script(call.script)
        return self._try(lambda: run(keys=call.keys, args=call.arguments), "a script")

    def groups(self, keys: Sequence[bytes]) -> list[list[int]]:
        """Return the places of some keys, some hundred at a time."""
        return chunks(list(range(len(keys))))

    def exchange(self, puts: Collection[tuple[bytes, bytes]], removes: Collection[bytes]) -> int:
        """Write and remove keys in one MULTI."""

        def run() -> int:
            with self._client.pipeline(transaction=True) as pipeline:
                for key, value in puts:
                    pipeline.set(key, value)
                for key in removes:
                    pipeline.delete(key)
                return sum(pipeline.execute()[len(puts) :])

        return self._try(run, "MULTI")

    def marks(self, key: bytes) -> Sequence[bytes]:
        """Return nothing: every script may look at the run's own."""
        return ()

    def mark_beside(self, key: bytes, row: bytes) -> bytes:
        """Return the run's own."""
        return key

    def scan(self, pattern: bytes) -> Iterator[bytes]:
        """Yield the keys of a pattern; one may come twice."""
        cursor: Any = 0
        while True:
            cursor, keys = self.ask("SCAN", cursor, "MATCH", pattern, "COUNT", SCAN_KEYS)
            yield from keys
            if not int(cursor):
                return

    def close(self) -> None:
        """Let go of the connections."""
        with contextlib.suppress(self._errors):
            self._client.close()

    def _try(self, ask: Callable[[], Answer], what: str) -> Answer:
        """Return what Redis answers; ask again while another master is looked for. Raises StoreError."""
        until_s = time.monotonic() + self._wait_s
        while True:
            try:
                return ask()
            except self._errors as error:
                if time.monotonic() >= until_s or not isinstance(error, self._lost):
                    raise StoreError(f"Redis refused {what}: {error}", where=self.where, next=NEXT) from None
            time.sleep(FAILOVER_LOOK_S)


def _master_client(hosts: RedisHosts) -> Any:
    """Return a client of the master that sentinels name. It tries each command once: the caller tries again."""
    from redis import connection, sentinel
    from redis.backoff import NoBackoff
    from redis.retry import Retry

    parse_url: Any = connection.parse_url  # untyped, as `Sentinel` is
    sentinel_type: Any = sentinel.Sentinel
    options: dict[str, Any] = dict(parse_url(hosts.url_of(hosts.hosts[0])))
    for name in ("host", "port"):
        options.pop(name, None)
    is_tls = options.pop("connection_class", None) is not None
    tls = {name: value for name, value in options.items() if name.startswith("ssl_")} | {"ssl": is_tls}
    timeouts = {"socket_connect_timeout": 1.0, "socket_timeout": 1.0, "retry": Retry(NoBackoff(), 0)}
    sentinels = sentinel_type(hosts.hosts, sentinel_kwargs=timeouts | (tls if is_tls else {}))
    options |= {"socket_connect_timeout": 1.0, "socket_timeout": NODE_ANSWER_S_MAX, "retry": Retry(NoBackoff(), 0)}
    return sentinels.master_for(hosts.service, **options, **({"ssl": True} if is_tls else {}))
