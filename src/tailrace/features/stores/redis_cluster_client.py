"""A Redis Cluster as its writer asks it: each command to the node that has its slot, some hundred in one write.

A slot that is moving refuses what touches several keys until it has moved (TRYAGAIN), a node that is gone refuses
everything until a replica has its place: both are waited for, for `FAILOVER_S_MAX` at most.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Collection, Iterator, Sequence
from hashlib import sha1
from typing import Any, Final, NamedTuple

from tailrace.errors import StoreError
from tailrace.features.stores.redis_address import NEXT, Node, RedisHosts
from tailrace.features.stores.redis_client import (
    CONNECT_S_MAX,
    FAILOVER_LOOK_S,
    FAILOVER_S_MAX,
    NODE_ANSWER_S_MAX,
    ROWS_PER_SCRIPT_MAX,
    SCAN_KEYS,
    ScriptCall,
    chunks,
)  # fmt: skip
from tailrace.features.stores.redis_scripts import EXCHANGE
from tailrace.features.stores.redis_slots import SlotMap, parse_redirect, slot_of, slot_tags

REDIRECTS_MAX: Final = 8
_WAITED_FOR: Final = ("TRYAGAIN", "CLUSTERDOWN", "MASTERDOWN", "READONLY", "LOADING")


class _Command(NamedTuple):
    """A command on its way. place: of its reply. sent_to: by a node, once; None for the node that has the slot."""

    place: int
    slot: int
    words: tuple[Any, ...]
    sent_to: Node | None = None


class ClusterClient:
    """Writes the masters of a Redis Cluster. Groups are slots: what is at once, is so in one of them."""

    def __init__(self, url: str) -> None:
        import redis

        self._hosts = RedisHosts.of_cluster(url)
        self.where = self._hosts.url
        self._redis: Any = redis
        self._lost = (redis.ConnectionError, redis.TimeoutError)
        self._nodes: dict[Node, Any] = {}
        self._slots = SlotMap()
        self._scripts: dict[bytes, str] = {}
        self._read_map()

    def ask(self, *command: Any) -> Any:
        """Return what the node of a command's key answers."""
        return self._run([_Command(0, slot_of(command[1]), command)])[0]

    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """Return the values of some keys, in order."""
        groups = self.groups(keys)
        found: list[bytes | None] = [None] * len(keys)
        commands = [
            _Command(number, slot_of(keys[places[0]]), ("MGET", *(keys[place] for place in places)))
            for number, places in enumerate(groups)
        ]
        for places, values in zip(groups, self._run(commands), strict=True):
            for place, value in zip(places, values, strict=True):
                found[place] = value
        return found

    def evaluate(self, calls: Sequence[ScriptCall]) -> list[Any]:
        """Return what some scripts give, each at once by itself."""
        return self._run([self._command(number, call) for number, call in enumerate(calls)])

    def _command(self, place: int, call: ScriptCall) -> _Command:
        digest = sha1(call.script.encode(), usedforsecurity=False).hexdigest().encode()
        self._scripts[digest] = call.script
        words = ("EVALSHA", digest, len(call.keys), *call.keys, *call.arguments)
        return _Command(place, slot_of(call.keys[0]), words)

    def groups(self, keys: Sequence[bytes]) -> list[list[int]]:
        """Return the places of some keys by slot."""
        return [part for places in _by_slot(keys) for part in chunks(places)]

    def exchange(self, puts: Collection[tuple[bytes, bytes]], removes: Collection[bytes]) -> int:
        """Write and remove keys, those of a slot at once."""
        pairs, keys = list(puts), [*(key for key, _ in puts), *removes]
        calls = []
        for places in _by_slot(keys):
            values = [pairs[place][1] for place in places if place < len(pairs)]
            calls.append(ScriptCall(EXCHANGE, [keys[place] for place in places], values))
        return sum(self.evaluate(calls))

    def marks(self, key: bytes) -> Sequence[bytes]:
        """Return the key of the mark in every slot."""
        return [b"%b:{%b}" % (key, tag) for tag in slot_tags()]

    def mark_beside(self, key: bytes, row: bytes) -> bytes:
        """Return the key of the mark in the row's slot."""
        return b"%b:{%b}" % (key, slot_tags()[slot_of(row)])

    def scan(self, pattern: bytes) -> Iterator[bytes]:
        """Yield the keys of a pattern, node by node.

        One may come twice; one whose slot moves meanwhile to a node that has been scanned may not come.
        """
        self._read_map()
        for node in self._slots.nodes:
            cursor: Any = 0
            while True:
                try:
                    cursor, keys = self._node(node).execute_command(
                        "SCAN", cursor, "MATCH", pattern, "COUNT", SCAN_KEYS
                    )
                except self._redis.RedisError as error:
                    raise self._refused("SCAN", error) from None
                yield from keys
                if not int(cursor):
                    break

    def close(self) -> None:
        """Let go of the connections."""
        for client in self._nodes.values():
            with contextlib.suppress(self._redis.RedisError):
                client.close()
        self._nodes.clear()

    def _run(self, commands: Sequence[_Command]) -> list[Any]:
        """Return the reply to each command. Raises StoreError; then some may have been carried out."""
        replies: list[Any] = [None] * len(commands)
        until_s = time.monotonic() + FAILOVER_S_MAX
        left, rounds = list(commands), 0
        while left:
            error, is_waiting, again = None, False, []
            for node, part in self._by_node(left):
                sent_on, refusal, must_wait = self._send(node, part, replies)
                again += sent_on
                is_waiting |= must_wait
                error = refusal or error
            rounds = 0 if is_waiting else rounds + 1
            if again and (time.monotonic() >= until_s or rounds > REDIRECTS_MAX):
                raise self._refused(str(again[0].words[0]), error)
            if is_waiting:
                time.sleep(FAILOVER_LOOK_S)
                with contextlib.suppress(StoreError):
                    self._read_map()
            left = again
        return replies

    def _by_node(self, commands: Sequence[_Command]) -> Iterator[tuple[Node, list[_Command]]]:
        """Yield the node of some commands, and the commands, so many as keep its readers waiting no longer than one."""
        by_node: dict[Node, list[_Command]] = {}
        for command in commands:
            node = command.sent_to or self._slots.owner(command.slot)
            if node is None:
                raise self._refused(str(command.words[0]), f"no node has slot {command.slot}")
            by_node.setdefault(node, []).append(command)
        for node, own in by_node.items():
            for begin in range(0, len(own), ROWS_PER_SCRIPT_MAX):
                yield node, own[begin : begin + ROWS_PER_SCRIPT_MAX]

    def _send(
        self, node: Node, commands: Sequence[_Command], replies: list[Any]
    ) -> tuple[list[_Command], Exception | None, bool]:
        """Send commands to a node in one write, and put the replies in their places.

        Return what is to be sent once more, an error of it, and whether that must wait.
        """
        again, last, must_wait = [], None, False
        missing: set[bytes] = set()
        try:
            with self._node(node).pipeline(transaction=False) as pipeline:
                for command in commands:
                    if command.sent_to is not None:
                        pipeline.execute_command("ASKING")
                    pipeline.execute_command(*command.words)
                told = pipeline.execute(raise_on_error=False)
        except self._lost as error:
            return [command._replace(sent_to=None) for command in commands], error, True
        told = iter(told)
        for command in commands:
            if command.sent_to is not None:
                next(told)
            reply = next(told)
            if not isinstance(reply, Exception):
                replies[command.place] = reply
                continue
            next_command, waits = self._sent_on(command, reply, node)
            again.append(next_command)
            last, must_wait = reply, must_wait or waits
            if isinstance(reply, self._redis.exceptions.NoScriptError):
                missing.add(command.words[1])
        for digest in missing:
            with contextlib.suppress(self._redis.RedisError):  # then it is missing still, and told again
                self._node(node).execute_command("SCRIPT", "LOAD", self._scripts[digest])
        return again, last, must_wait

    def _sent_on(self, command: _Command, error: Exception, node: Node) -> tuple[_Command, bool]:
        """Return what becomes of a command that was refused, and whether it must wait. Raises StoreError."""
        said = self._said(error)
        redirect = parse_redirect(said, node)
        if redirect is not None:
            if not redirect.is_moved:
                return command._replace(sent_to=redirect.node), False
            self._slots.move(redirect.slot, redirect.node)
            return command._replace(sent_to=None), False
        if said.startswith("NOSCRIPT"):
            return command, False
        if said.startswith(_WAITED_FOR):
            return command._replace(sent_to=None), True
        raise self._refused(str(command.words[0]), error)

    def _said(self, error: Exception) -> str:
        """Return an error as Redis said it: redis-py takes the first word off where it has a class for it."""
        errors = self._redis.exceptions
        if isinstance(error, errors.ClusterDownError | errors.TryAgainError | errors.ReadOnlyError):
            return "TRYAGAIN"
        if isinstance(error, errors.NoScriptError):
            return "NOSCRIPT"
        if isinstance(error, errors.AskError):  # MovedError is one, too
            return f"{'MOVED' if isinstance(error, errors.MovedError) else 'ASK'} {error}"
        return str(error)

    def _read_map(self) -> None:
        """Read which node has which slot, from the first that answers. Raises StoreError where none does."""
        why: Any = None
        for node in dict.fromkeys([*self._slots.nodes, *self._hosts.hosts]):
            try:
                reply = self._node(node).execute_command("CLUSTER", "SLOTS")
                self._slots = SlotMap.parse(reply, node)
            except (self._redis.RedisError, StoreError) as error:
                why = error
                continue
            for gone in set(self._nodes) - {*self._slots.nodes, *self._hosts.hosts}:
                client = self._nodes.pop(gone, None)  # another thread may read the map just now
                if client is not None:
                    client.close()
            return
        raise self._refused("CLUSTER SLOTS", why)

    def _node(self, node: Node) -> Any:
        """Return the client of one node."""
        client = self._nodes.get(node)
        if client is None:
            from redis.backoff import NoBackoff
            from redis.retry import Retry

            client = self._nodes[node] = self._redis.Redis.from_url(
                self._hosts.url_of(node), socket_connect_timeout=CONNECT_S_MAX, socket_timeout=NODE_ANSWER_S_MAX,
                retry=Retry(NoBackoff(), 0),
            )  # fmt: skip
        return client

    def _refused(self, what: str, error: object) -> StoreError:
        return StoreError(f"Redis refused {what}: {error}", where=self.where, next=NEXT)


def _by_slot(keys: Sequence[bytes]) -> list[list[int]]:
    """Return the places of some keys by their slot."""
    places: dict[int, list[int]] = {}
    for place, key in enumerate(keys):
        places.setdefault(slot_of(key), []).append(place)
    return list(places.values())
