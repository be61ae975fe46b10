"""The network store on a Redis Cluster: one write and one round trip a node, all nodes side by side.

A cluster takes no MGET over two slots. So a batch becomes one MGET for each slot, sent to each node in one write:

    keys ──by slot──> MGET, MGET, …  ──by node──> one write to each node ──> replies, each in its place
                                                        │ MOVED, ASK, TRYAGAIN
                                                        └──> those alone are asked once more, elsewhere

What moves while it is read: MOVED says that a slot has another node for good, and is noted. ASK sends one command to
the node that a slot is moving to. TRYAGAIN says that the keys of one MGET are on both: then each is asked for alone.
The map of the slots is read anew in the background (redis_topology.py). Replicas are not read: they may be behind.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from itertools import repeat
from typing import Any, Final, NamedTuple

import hiredis

from tailrace.deadline import NS_PER_S, Clock
from tailrace.errors import StoreError
from tailrace.features.stores.redis import give_up
from tailrace.features.stores.redis_address import NEXT, Node
from tailrace.features.stores.redis_slots import parse_redirect, slot_of
from tailrace.features.stores.redis_topology import Topology

ROUNDS_MAX: Final = 6
"""How often the keys of a batch are asked for, where slots are moving."""

_ASKING: Final = hiredis.pack_command(("ASKING",))


class _Question(NamedTuple):
    """One MGET. places: of its keys in the batch. is_asking: the node is told that it has been sent there."""

    node: Node
    places: list[int]
    is_asking: bool = False


class _Round:
    """What the nodes answer to one write each; the future is done with the last of them."""

    def __init__(self, nodes: int, future: asyncio.Future[None]) -> None:
        self.future = future
        self._left = nodes

    def end_node(self) -> None:
        """Take note that a node has answered everything."""
        self._left -= 1
        if not self._left and not self.future.done():
            self.future.set_result(None)


class _Answers:
    """What waits for a node's replies: it stands in line once for each. A connection that is lost is a reply, too."""

    __slots__ = ("_count", "_future", "_round", "replies")

    def __init__(self, round_: _Round, count: int) -> None:
        self.replies: list[Any] = []
        self._round = round_
        self._future = round_.future
        self._count = count

    def done(self) -> bool:
        """Whether the round has ended without it."""
        return self._future.done()

    def set_result(self, reply: Any, /) -> None:
        """Take a reply."""
        self.replies.append(reply)
        if len(self.replies) == self._count:
            self._round.end_node()

    set_exception = set_result


class RedisClusterStore:
    """Reads the masters of a Redis Cluster. While a slot has no master, batches with keys in it fail at once."""

    network: Final = True

    def __init__(self, url: str, clock: Clock) -> None:
        self._topology = Topology(url, clock)
        self._now_ns = clock.now_ns
        self._loop: Any = None

    async def open(self) -> None:
        """Connect to the nodes, or go on trying in the background. To open what is open changes nothing."""
        self._loop = asyncio.get_running_loop()
        await self._topology.open()

    def close(self) -> None:
        """Let go of the connections; what waits for them fails."""
        self._topology.close()

    async def fetch(self, keys: Sequence[bytes], deadline_ns: int) -> list[bytes | None]:
        """Return the value of each key, in order.

        Raises TimeoutError at the deadline, ConnectionError where a node that is asked has none, StoreError for any
        other reply.
        """
        if not keys:
            return []
        found: list[bytes | None] = [None] * len(keys)
        questions = self._questions(keys)
        for _ in range(ROUNDS_MAX):
            replies = await self._ask(questions, keys, deadline_ns)
            questions = self._take(questions, replies, found)
            if not questions:
                return found
            await self._topology.reach({each.node for each in questions}, deadline_ns)
        raise StoreError(f"{len(questions)} slots were sent on {ROUNDS_MAX} times", where=self._topology.url,
                         next="see: redis-cli --cluster check HOST:PORT")  # fmt: skip

    def _questions(self, keys: Sequence[bytes]) -> list[_Question]:
        """Return one question for each slot that some keys lie in. Raises ConnectionError where nobody has it."""
        by_slot: dict[int, list[int]] = {}
        for place, slot in enumerate(map(slot_of, keys)):
            if slot in by_slot:
                by_slot[slot].append(place)
            else:
                by_slot[slot] = [place]
        owner = self._topology.owner
        return [_Question(owner(slot), places) for slot, places in by_slot.items()]

    async def _ask(self, questions: Sequence[_Question], keys: Sequence[bytes], deadline_ns: int) -> list[Any]:
        """Return the reply to each question: one write and one round trip a node, side by side."""
        by_node: dict[Node, list[int]] = {}
        for index, question in enumerate(questions):
            by_node.setdefault(question.node, []).append(index)
        connections = [self._topology.connection(node) for node in by_node]
        now_ns = self._now_ns()
        if now_ns >= deadline_ns:
            raise TimeoutError("no time left to ask Redis")
        round_ = _Round(len(by_node), self._loop.create_future())
        answers = []
        for connection, indexes in zip(connections, by_node.values(), strict=True):
            commands = [_packed(questions[index], keys) for index in indexes]
            count = len(indexes) + sum(questions[index].is_asking for index in indexes)
            answers.append(_Answers(round_, count))
            connection.send_packed(commands, repeat(answers[-1], count), now_ns)
        timer = self._loop.call_later((deadline_ns - now_ns) / NS_PER_S, give_up, round_.future)
        try:
            await round_.future
        finally:
            timer.cancel()
        replies: list[Any] = [None] * len(questions)
        for node_answers, indexes in zip(answers, by_node.values(), strict=True):
            own = iter(node_answers.replies)
            for index in indexes:
                if questions[index].is_asking:
                    next(own)
                replies[index] = next(own)
        return replies

    def _take(
        self, questions: Sequence[_Question], replies: Sequence[Any], found: list[bytes | None]
    ) -> list[_Question]:
        """Put the values that came in their places; return what is to be asked once more."""
        again: list[_Question] = []
        for question, reply in zip(questions, replies, strict=True):
            if type(reply) is list and len(reply) == len(question.places):
                for place, value in zip(question.places, reply, strict=True):
                    found[place] = value
            elif isinstance(reply, ConnectionError):
                self._topology.look_soon()
                raise reply
            else:
                again += self._sent_on(question, reply)
        return again

    def _sent_on(self, question: _Question, reply: Any) -> Iterable[_Question]:
        """Return what is to be asked in place of a question that was not answered. Raises StoreError for nonsense."""
        text = str(reply) if isinstance(reply, hiredis.ReplyError) else ""
        redirect = parse_redirect(text, question.node)
        if redirect is None:
            if text.startswith("TRYAGAIN") and len(question.places) > 1:
                return [question._replace(places=[place]) for place in question.places]
            self._topology.look_soon()
            raise StoreError(f"Redis answered {str(reply)[:100]!r}", where=self._topology.url, next=NEXT)
        if redirect.is_moved:
            self._topology.move(redirect.slot, redirect.node)
            return [_Question(redirect.node, question.places)]
        # The node a slot moves to has some of its keys only: of several it would answer TRYAGAIN.
        return [_Question(redirect.node, [place], is_asking=True) for place in question.places]


def _packed(question: _Question, keys: Sequence[bytes]) -> bytes:
    """Return a question as it is sent. Written by hand: it takes a third of `pack_command`'s time for one key."""
    own = [keys[place] for place in question.places]
    command = b"*%d\r\n$4\r\nMGET\r\n%b" % (len(own) + 1, b"".join([b"$%d\r\n%b\r\n" % (len(key), key) for key in own]))
    return _ASKING + command if question.is_asking else command
